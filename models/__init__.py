"""The floor that remembers: tables, the shapes of rows in and out, the database and its migrations.

Nothing is imported here: `shapes`, `inputs` and `errors` are light and serve every floor, while `tables`, `rows` and
`database` bring SQLAlchemy and are for chat_service alone.
"""
