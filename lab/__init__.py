"""Experiments on the town. They stand on minirlhf and on data.town, and neither imports them."""
