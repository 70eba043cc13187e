package model

// deviation is a rule that is not followed. Each must give a counterexample: it shows that the rule is needed and that the model
// can fail.
type deviation uint64

const (
	// A restarted leader goes on in its epoch.
	noA7 deviation = 1 << iota
	// The leader's vote in the HW is what it has written (H2).
	leaderVotesWritten
	// The HW ignores members that are only proposed (H3).
	committedISROnly
	// A follower's written end counts as durable (H1).
	writtenCounts
	// An old disk keeps its place (E5).
	noOldDiskCheck
	// Recovery elects whoever answers (E6).
	electAnyone
	// A follower cuts to its HW when the leader changes (T1).
	cutToHW
	// What can be read after a restart counts as durable (J7).
	readableIsDurable
	// The HW advances with too few in sync (H4).
	noH4
	// A member joins at the HW, below LESO (I4).
	joinBelowLESO
	// A fetch answered with a diverging epoch counts (H3).
	divergingCounts
	// Divergence is tested at the durable end (H1).
	divergenceAtDurable

	// Lowering min.insync leaves the ELR as it is (I7).
	noI7
	// The leader takes its ISR from the answer to its proposal, ahead of the log (I7).
	isrFromAnswer
	// OFFSET_OUT_OF_RANGE above the HW (R4).
	rangeAtHW
	// A follower that is below the leader's log start goes on where it is (T5).
	noT5
	// Moving a partition ends when the new replica has been copied once, in the ISR or not.
	moveWithoutISR
	// The clean marker stays on disk after the start (E8).
	markerStays
	// The clean marker is believed without a look at its BE (E8).
	markerOfAnyBE
	// A lost answer is taken for a refusal (I2).
	lostIsRefused
	// A refusal is not committed (I2).
	refusalLeavesPE
	// A follower appends what a leader of an older epoch sent (H7).
	noH7
	// No divergence test while the leader is the same broker (T2).
	noT2
	// Votes outlive the epoch (H3).
	votesOutliveEpoch
	// No ELR for the one that had everything (E3, last sentence).
	noE3
	// An unclean restart is not remembered (E5).
	restartForgiven
	// What a follower told in its last life is believed of the next when it is cleared (E5, I1).
	clearedInAnyLife
	// E6 counts the answer of a broker that still follows an older epoch.
	answersOfAnyEpoch
	// A leader reads on without a lease (R2).
	noR2

	// What follows is the design as it was first written; doc.go tells what is wrong with it.

	// E6 compares the epoch of the last record.
	recordEpochsOnly
	// A vote counts before the epoch entry of the term is durable with it (H3).
	voteWithoutEpoch
	// A follower takes an answer to an earlier fetch (H7).
	answerOfAnyFetch
	// A leader without records of the asked epoch or before answers epoch 0 (T1).
	noEpochLeft
	// A broker that was not fenced yet is elected unheard (E1).
	electUnasked
	// The ELR is emptied without a leader (E3).
	emptyELRLeaderless
	// The lease is renewed whatever metadata the broker has applied (E4).
	leaseWithoutLog
	// A new controller leader fences after three renewal intervals (E4).
	earlyFence
	// A follower answers OFFSET_OUT_OF_RANGE above its LEO (R4).
	followerRange
	// Divergence is tested for a follower without records too (T5).
	emptyLogDiverges
)

// rules is the design, less some deviations.
type rules struct{ without deviation }

func (r rules) not(d deviation) bool { return r.without&d != 0 }
