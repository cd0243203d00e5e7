"""Wishes said in words: prices, ratings, distances, times, and the words of the catalogue itself, wanted or not.

``reader.read_wishes`` reads a text, ``asked.asked_part`` says how well every item fits, and ``answer.heed`` puts both
to work on a joined request. What a word means in a domain is data in its pack or comes from the catalogue; what stands
here is how English and Chinese put numbers, limits and refusals.
"""
