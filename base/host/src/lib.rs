//! What the operating system gives: sockets, descriptor passing, files, processes.
