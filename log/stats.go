package log

import (
	"sync/atomic"
	"time"
)

// counters are what Stats is made of.
type counters struct {
	commits, commitBytes, segmentBytes atomic.Int64
	checkpoints, checkpointNanos       atomic.Int64
	journalFull, busy, corruptReads    atomic.Int64
	segmentsRemoved                    atomic.Int64
	diskFree, diskTotal                atomic.Int64
	diskWarned                         atomic.Bool
	thinnedRecords, thinnedBytes       atomic.Int64
	thinFailures                       atomic.Int64
}

// Stats are figures since Open, for metrics. Names of the metrics are in doc.go.
type Stats struct {
	Partitions       int
	Commits          int64         // fdatasyncs of the journal
	CommitBytes      int64         // written to the journal
	Syncs            int64         // fdatasyncs and fsyncs of all files and directories, those of commits among them
	CommitAge        time.Duration // how long the commit under way has taken, 0 if none (E9)
	SegmentBytes     int64         // written to segments
	Checkpoints      int64
	CheckpointTook   time.Duration // the last one
	JournalFull      int64         // times the committer waited for a journal file
	JournalLiveBytes int64
	JournalBytes     int64
	Busy             int64 // appends refused with ErrBusy
	UncommittedBytes int64
	UnwrittenBytes   int64 // durable in the journal, not yet in segments
	CorruptReads     int64
	SegmentsRemoved  int64
	ThinnedRecords   int64 // given up for room while others of their segments stayed
	ThinnedBytes     int64 // that this has freed
	ThinFailures     int64
	DiskFreeBytes    int64 // as of the last look
	DiskTotalBytes   int64
	DiskFull         bool // appends are refused for want of room
	Failed           bool
	Compaction       CompactionStats
}

// started is where ages are counted from: the wall clock may step.
var started = time.Now()

// Stats returns the current figures.
func (l *Log) Stats() Stats {
	c := &l.stats
	s := Stats{
		Commits: c.commits.Load(), CommitBytes: c.commitBytes.Load(), Syncs: l.syncs.Load(), SegmentBytes: c.segmentBytes.Load(),
		Checkpoints: c.checkpoints.Load(), CheckpointTook: time.Duration(c.checkpointNanos.Load()),
		JournalFull: c.journalFull.Load(), Busy: c.busy.Load(), UncommittedBytes: l.uncommitted.Load(),
		UnwrittenBytes: l.w.unwritten.Load(), CorruptReads: c.corruptReads.Load(), SegmentsRemoved: c.segmentsRemoved.Load(),
		DiskFreeBytes: c.diskFree.Load(), DiskTotalBytes: c.diskTotal.Load(), DiskFull: l.pressure.Load() != diskOK || l.overQuota.Load(),
		ThinnedRecords: c.thinnedRecords.Load(), ThinnedBytes: c.thinnedBytes.Load(), ThinFailures: c.thinFailures.Load(),
		Failed: l.Err() != nil, Compaction: l.CompactionStats(),
	}
	if began := l.c.began.Load(); began != 0 {
		s.CommitAge = time.Since(started) - time.Duration(began)
	}
	s.JournalLiveBytes, s.JournalBytes = l.j.usage()
	l.mu.RLock()
	s.Partitions = len(l.byID)
	l.mu.RUnlock()
	return s
}
