//! The session store on an embedded database.
