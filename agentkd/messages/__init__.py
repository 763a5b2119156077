"""What agents say: typed messages and their bytes. Pure data: no sockets, no torch."""
