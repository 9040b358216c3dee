//! The metric registry: every family with its closed label sets, and the Prometheus text exposition.
