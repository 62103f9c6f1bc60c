"""Other methods than PPO, each in a file that reads beside the paper it is from; PPO with a detail changed; and what
compares them."""
