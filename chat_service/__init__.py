"""The floor that decides: ChatService, and one room a noun.

Rooms are plain functions over an open transaction; `ChatService` opens it, commits it, and tells what happened.
"""
