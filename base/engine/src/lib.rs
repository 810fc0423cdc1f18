//! Workers, listeners, deadlines, counters, lifecycle and logs.
