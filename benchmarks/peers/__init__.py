"""Other stores of conversations, under the same load as ours."""
