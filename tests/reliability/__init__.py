"""Tests of the promises that only a crash, a crowd or a broken disk can disprove."""
