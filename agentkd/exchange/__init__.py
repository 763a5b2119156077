"""How messages move: keys, authenticated ZeroMQ sockets, the I/O thread, liveness. Knows nothing of tasks or torch."""
