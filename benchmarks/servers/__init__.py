"""A program for each server that is compared: prints ``READY <port>`` and ends when its standard input closes."""
