"""x"""
from theater_tcp.testing.memory_socket import MemorySocket, memory_pair
__all__ = ["MemorySocket", "memory_pair"]
