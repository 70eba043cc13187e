// Package access is who may do what: rules in the model of Kafka's ACLs, the index that answers for them, and the credentials by which a user proves who he is.
// It is pure: no clock, no goroutine, no I/O. Package meta keeps rules and credentials as metadata, so that they are the same on all nodes; bridge/kafka and
// mqtt, through adapters in cmd, ask the index before they do what a client wants.
//
// # Invariants
//
//   - S1: deny wins over allow, whatever the pattern of either (Set.Decide). An operation that a rule allows brings what it implies with it (reading, writing, deleting and
//     altering: describing); a denial takes exactly what it names.
//   - S2: a password is nowhere: a credential holds the stored key and the server key of RFC 5802, from which neither the password nor a client's proof
//     can be made. Credentials are in the metadata and its files, never in an answer, a log line, a debugging page or gossip.
//   - S3: Decide allocates nothing and takes no lock: a Set does not change once it is made, and a change of the rules is another Set.
//   - S4: whether a user exists cannot be told from a SCRAM exchange: who is not there is given a salt and a number of iterations as well, like those of
//     users who are, always the same, on all nodes (Decoys).
//   - S5: rules, users, iterations and the length of everything that has a name are limited (the constants of this room).
//
// # Third-party modules
//
// None.
package access
