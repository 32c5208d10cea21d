"""The recording relay: bytes pass through one small process, and a second one makes the record of copies of them."""
