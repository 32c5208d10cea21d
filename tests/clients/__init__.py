"""Other people's clients against our server; `python -m tests.clients.run` sets them up and drives them."""
