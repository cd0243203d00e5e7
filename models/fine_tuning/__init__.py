"""Fine-tuning of the text encoder: pairs of a query and the item it means in, an adapted base model out.

Start with ``training.fine_tune``; ``result.load_fine_tuned`` reads what it wrote.
"""
