"""Tests of the recording relay: a scripted server behind it, clients in front of it, and the record afterwards."""
