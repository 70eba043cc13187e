package replica

import (
	"errors"
	"fmt"
)

// Reasons why a fetch changes nothing at the leader (H8).
var (
	// ErrFencedEpoch: the follower is in an older epoch than the leader.
	ErrFencedEpoch = errors.New("fetch of an older leader epoch")
	// ErrUnknownEpoch: the follower is in a newer one, which the leader has yet to hear of.
	ErrUnknownEpoch = errors.New("fetch of a newer leader epoch")
)

// Point is the end of an epoch in some log.
type Point struct {
	Epoch int32
	End   int64
}

// EpochEnd gives the largest epoch not above e that a log has, and where it ends; {-1, -1} when all it has is newer (KIP-320).
type EpochEnd func(e int32) Point

// Leading is where the leader's log stands.
type Leading struct {
	Epoch int32
	Start int64
	End   int64
	Ends  EpochEnd
}

// Compare tests whether a follower's log parts from the leader's. It looks at where the follower
// reads on, never at what it has synced: what is there unsynced would be kept otherwise (H1). From the leader's log start on nothing is left to
// be compared with.
func Compare(f Fetch, l Leading) (diverges bool, at Point, err error) {
	switch {
	case f.LeaderEpoch < l.Epoch:
		return false, Point{}, fmt.Errorf("%w: epoch %d, the leader's is %d", ErrFencedEpoch, f.LeaderEpoch, l.Epoch)
	case f.LeaderEpoch > l.Epoch:
		return false, Point{}, fmt.Errorf("%w: epoch %d, the leader's is %d", ErrUnknownEpoch, f.LeaderEpoch, l.Epoch)
	case f.From <= l.Start:
		return false, Point{}, nil
	case f.LastEpoch < 0: // an empty log parts from the leader's only where that has not come so far
		return f.From > l.End, Point{-1, -1}, nil
	}
	at = l.Ends(f.LastEpoch)
	return at.Epoch != f.LastEpoch || at.End < f.From, at, nil
}
