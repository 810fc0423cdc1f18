//! Balancing, retry budgets, outlier detection, slow start and queue discipline, without IO or clock.
