"""Other methods than PPO, each in a file that reads beside the paper it is from. None has a value network."""
