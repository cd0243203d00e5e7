"""A simulated city, its people, what they ask for and how they react. README.md says how it works."""
