"""What was recorded, once more: on topics of its own, through stages of its own."""
