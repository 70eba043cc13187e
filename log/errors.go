package log

import "errors"

// Sentinels of this room. Every error it returns is one of these, wraps one of these, or wraps
// what the file system said. Test with errors.Is.
var (
	// ErrCorrupt: the bytes cannot be what was written, or never were a valid batch.
	ErrCorrupt = errors.New("corrupt data")
	// ErrShort: the bytes end before the thing they begin; with more bytes it may be whole.
	ErrShort = errors.New("data ends early")
	// ErrOutOfRange: the offset is below the log start or above the log end.
	ErrOutOfRange = errors.New("offset out of range")
	// ErrClosed: the log or partition was closed or deleted.
	ErrClosed = errors.New("log is closed")
	// ErrReadOnly: the directory or file may be read but not changed, for instance because a newer version wrote it.
	ErrReadOnly = errors.New("log is read-only")
	// ErrTooLarge: a batch or record is larger than the limit that applies to it.
	ErrTooLarge = errors.New("too large")
	// ErrDiskFull: the disk or its quota has no room; passes when retention or an operator makes some.
	ErrDiskFull = errors.New("disk full")
	// ErrOutOfOrderSequence: an idempotent producer skipped or rewound its sequence numbers.
	ErrOutOfOrderSequence = errors.New("out of order sequence number")
	// ErrProducerFenced: a newer instance of the same producer has taken over.
	ErrProducerFenced = errors.New("producer fenced by a newer epoch")
	// ErrNotVerified: the batch would begin a transaction, and the coordinator was not asked since the producer's last one has ended here.
	ErrNotVerified = errors.New("not verified to be part of an open transaction")
	// ErrTransactionState: the batch does not fit the producer's transaction in this partition, or the marker does not.
	ErrTransactionState = errors.New("not part of an ongoing transaction")
	// ErrCoordinatorFenced: a later transaction coordinator has ended a transaction of this producer.
	ErrCoordinatorFenced = errors.New("fenced by a newer transaction coordinator")
	// ErrTooManyTransactions: as many are open in the partition as it can take; passes when some have ended.
	ErrTooManyTransactions = errors.New("too many open transactions")
	// ErrAbortedLimit: the partition holds the records of as many aborted transactions as it can keep apart; passes when retention, compaction or
	// DeleteRecords has removed some.
	ErrAbortedLimit = errors.New("too many aborted transactions")
	// ErrFailed: a write or sync of this log directory failed; it stays offline until a restart (A6).
	ErrFailed = errors.New("log directory is offline after a failed write or sync")
	// ErrNewerFormat: a file was written by a newer version of weir; it is neither read nor changed.
	ErrNewerFormat = errors.New("written in a newer format; use the version of weir that wrote it, or a newer one")
)
