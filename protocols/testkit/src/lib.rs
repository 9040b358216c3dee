//! Virtual clock, impaired links, vectors, contract tests and a scriptable LAC for testing protocol modules.
