//! Credentials, secrets, realms, verdicts and grants: the types and pure functions of authentication and authorization.
