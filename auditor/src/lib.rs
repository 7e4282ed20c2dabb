//! Writes the audit trail: reads the stream in a group, chains each record to the one before, keeps them in a database.
