package log

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	minJournalFileBytes = 32 * kib
	maxJournalFileBytes = 1 << 30
	// bootJournalBytes is the size of a journal file made while somebody waits for it: the first file of
	// a new directory, and the spare one that recovery needs when all others are in use. It is replaced by
	// a full-sized one in the background, so that an empty node starts at once.
	bootJournalBytes = 4 * mib
)

// Config says where a log lives and how it paces itself. Zero fields take the default in brackets.
type Config struct {
	Dir string // the log's directory; made when missing
	FS  vfs.FS // [the operating system's]

	JournalFileBytes int64 // size of one journal file [64 MiB]; 32 KiB to 1 GiB
	JournalFiles     int   // files used in turn [4]; at least 2

	CommitMaxBytes int           // batches taken by one commit [1 MiB]
	CommitMaxWait  time.Duration // longest linger before a commit [2 ms]; < 0: never linger
	// CommitEnough ends the linger early: a commit of that many bytes is worth a sync [16 KiB].
	CommitEnough int
	// SyncsPerSecond is the rate that all syncs together keep to [400], second by second, while commits are too small
	// to be worth one. Above it commits wait for their turn, at most CommitMaxWait or two intervals of this rate,
	// whichever is longer.
	SyncsPerSecond int
	SealAfter      time.Duration // idle time after which the journal's end is sealed, J2 [100 ms]

	CheckpointEvery     time.Duration // while there are new entries [30 s]
	CheckpointIdleEvery time.Duration // while there are less than 64 KiB of them [10 × CheckpointEvery]

	MaxUnwrittenBytes   int64 // batches in memory that are in the journal but not yet in segments [8 MiB]
	RecentCacheBytes    int64 // batches kept in memory after they were written, for readers at the end [8 MiB]
	MaxUncommittedBytes int64 // producers' batches appended but not yet in the journal; beyond, AppendBatch gets ErrBusy [64 MiB]
	// MaxUncommittedRecordBytes is the same for Append, apart, so that neither kind of sender can shut the other
	// out [8 MiB, at most MaxUncommittedBytes]. Several commits' worth: more would only be memory and waiting.
	MaxUncommittedRecordBytes int64
	MaxOpenFiles              int // closed segments kept open for readers [256]

	DiskQuota     int64         // bytes of segments on this node; beyond, oldest data goes first [0: none]
	DiskWarn      float64       // used fraction at which the node warns [0.85]
	DiskFull      float64       // used fraction at which topics' disk.full applies [0.95]
	DiskMinFree   int64         // free bytes below which the disk counts as full [128 MiB]
	BallastBytes  int64         // file given up when the disk is full [64 MiB]; < 0: none
	HousekeepTick time.Duration // how often Run looks at retention, compaction and the disk [10 s]

	// Hold says from which offset on a partition's records are still wanted by who carries them elsewhere [nothing is held]. Retention deletes none of them. Where
	// room is needed, by DiskQuota or a full disk, they are given up only if yield says so; else appends are refused with ErrDiskFull. It must not block.
	Hold func(PartitionID) (from Offset, yield bool)
	// Thin says what of records that Hold gives up for DiskQuota is given up first [nothing: they go by segments]. All of them must agree about a record. It is asked
	// by housekeeping's goroutine alone, and so are they.
	Thin func(PartitionID) []Thinner

	// OnCommit runs on the committer's goroutine after Durable or DurableEpoch of each listed partition has advanced.
	// It must not block and must not call Create, Delete, Truncate or SetLogStart; the slice is reused.
	OnCommit func(ps []*Partition)
	// OnTake runs on the committer's goroutine before a commit with batches of the listed partitions is written: from here on they can
	// be read, so that followers sync them while this disk does (H2). The same rules hold as for OnCommit.
	OnTake func(ps []*Partition)
	// OnRoom runs on the committer's goroutine when, after an Append was refused with ErrBusy, half of
	// MaxUncommittedRecordBytes is free again. It must not block.
	OnRoom func()
	// OnFail runs once, with the error that took the directory offline (A6). It must not block.
	OnFail func(error)
	// ClockTrusted says whether the wall clock can be believed [a clock that is past 2024 and not behind the
	// last time this directory saw]. While it cannot, nothing is deleted by age.
	ClockTrusted func() bool

	Now    func() time.Time // wall clock [time.Now]
	Rand   io.Reader        // salts of journal files [crypto/rand]
	Logger *slog.Logger     // [discard]
}

// ErrBusy: more is waiting for the journal than Config.MaxUncommittedBytes or MaxUncommittedRecordBytes. Nothing
// was appended; the same append succeeds once commits have caught up, see Config.OnRoom.
var ErrBusy = errors.New("log is busy: too many bytes wait for the disk")

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// withDefaults fills zero fields.
func (c Config) withDefaults() Config {
	c.FS = or(c.FS, vfs.FS(vfs.OS{}))
	c.JournalFileBytes = or(c.JournalFileBytes, 64*mib)
	c.JournalFiles = or(c.JournalFiles, 4)
	c.CommitMaxBytes = or(c.CommitMaxBytes, mib)
	c.CommitMaxWait = or(c.CommitMaxWait, 2*time.Millisecond)
	c.CommitEnough = or(c.CommitEnough, 16*kib)
	c.SyncsPerSecond = or(c.SyncsPerSecond, 400)
	c.SealAfter = or(c.SealAfter, 100*time.Millisecond)
	c.CheckpointEvery = or(c.CheckpointEvery, 30*time.Second)
	c.CheckpointIdleEvery = or(c.CheckpointIdleEvery, 10*c.CheckpointEvery)
	c.MaxUnwrittenBytes = or(c.MaxUnwrittenBytes, 8*mib)
	c.RecentCacheBytes = or(c.RecentCacheBytes, 8*mib)
	c.MaxUncommittedBytes = or(c.MaxUncommittedBytes, 64*mib)
	c.MaxUncommittedRecordBytes = or(c.MaxUncommittedRecordBytes, min(8*mib, c.MaxUncommittedBytes))
	c.MaxOpenFiles = or(c.MaxOpenFiles, 256)
	c.DiskWarn = or(c.DiskWarn, 0.85)
	c.DiskFull = or(c.DiskFull, 0.95)
	c.DiskMinFree = or(c.DiskMinFree, 128*mib)
	c.BallastBytes = or(c.BallastBytes, 64*mib)
	c.HousekeepTick = or(c.HousekeepTick, 10*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Rand = or(c.Rand, io.Reader(rand.Reader))
	c.Logger = or(c.Logger, slog.New(slog.DiscardHandler))
	return c
}

// Validate returns every fault at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	c = c.withDefaults()
	bad(c.Dir != "", "log directory is not set")
	bad(c.JournalFileBytes >= minJournalFileBytes && c.JournalFileBytes <= maxJournalFileBytes,
		"journal file size %d: want %d to %d bytes", c.JournalFileBytes, minJournalFileBytes, maxJournalFileBytes)
	bad(c.JournalFiles >= 2 && c.JournalFiles <= 1024, "journal files %d: want 2 to 1024", c.JournalFiles)
	bad(c.CommitMaxBytes > 0, "commit size %d: want at least 1 byte", c.CommitMaxBytes)
	bad(c.SyncsPerSecond > 0, "syncs per second %d: want at least 1", c.SyncsPerSecond)
	bad(c.DiskWarn > 0 && c.DiskWarn <= c.DiskFull && c.DiskFull <= 1,
		"disk watermarks %g and %g: want 0 < warn <= full <= 1", c.DiskWarn, c.DiskFull)
	bad(c.DiskQuota >= 0, "disk quota %d: want 0 (none) or more", c.DiskQuota)
	return errors.Join(errs...)
}

// MaxBatchBytes is the largest batch that this log accepts, whatever a topic says: a commit of several entries must
// fit a journal file beside the room kept back for a checkpoint.
func (c Config) MaxBatchBytes() int { return int(c.withDefaults().JournalFileBytes / 4) }

// PartitionConfig is what a topic's configuration means to one partition. Zero fields take the default in
// brackets, so that a new field does not change old callers.
type PartitionConfig struct {
	SegmentBytes       int64         // roll by size [64 MiB]; at most 2 GiB − 1
	SegmentAge         time.Duration // roll by age of the first append [7 days]; < 0: never
	Retention          time.Duration // delete by age of the last append [7 days]; < 0: for ever
	RetentionBytes     int64         // delete by size [0 or < 0: no limit]
	Compact, Delete    bool          // cleanup.policy; neither set means Delete
	MinCompactionLag   time.Duration
	MaxCompactionLag   time.Duration // compaction comes within it, whatever the dirty share [0 or < 0: whenever that is met]
	DeleteRetention    time.Duration // how long a tombstone stays [24 h]
	MaxMessageBytes    int           // largest batch accepted [1 MiB + 64 KiB]
	IndexIntervalBytes int           // log bytes per index entry [4 KiB]
	MinCleanableRatio  float64       // dirty share that makes compaction worth it [0.5]
	DiskFull           string        // "reject" [default] or "drop-oldest"
	Internal           bool          // never given up for space
	DeadLetters        bool          // goes on for a while where others are refused for want of room: what was put here lets go of what takes the room
	// LogAppendTime stamps what Append shares a batch for with the time at which that is closed. AppendBatch leaves it to its caller.
	LogAppendTime bool
}

func (c PartitionConfig) withDefaults() PartitionConfig {
	c.SegmentBytes = min(or(c.SegmentBytes, 64*mib), 1<<31-1)
	c.SegmentAge = or(c.SegmentAge, 7*24*time.Hour)
	c.Retention = or(c.Retention, 7*24*time.Hour)
	c.DeleteRetention = or(c.DeleteRetention, 24*time.Hour)
	c.MaxMessageBytes = or(c.MaxMessageBytes, mib+64*kib)
	c.IndexIntervalBytes = or(c.IndexIntervalBytes, 4*kib)
	c.MinCleanableRatio = or(c.MinCleanableRatio, 0.5)
	if !c.Compact {
		c.Delete = true
	} else if c.MaxCompactionLag > 0 && (c.SegmentAge < 0 || c.SegmentAge > c.MaxCompactionLag) {
		c.SegmentAge = c.MaxCompactionLag // compaction works in closed segments only
	}
	return c
}
