"""The inference stage: joined requests in, ranked lists with reasons out, in transactions."""
