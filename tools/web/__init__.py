"""People in the loop: the pages on which they rank answers and talk to models, and what is made of what they say."""
