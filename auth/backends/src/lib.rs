//! Where credentials are checked: the users file, the password hashing pool and the verified-credential cache.
