package group

import "fmt"

// Fault is why a request was refused; OK is none. The shell gives each its
// protocol code.
type Fault uint8

const (
	OK                     Fault = iota
	UnknownMember                // not in the group: join again with an empty id
	IllegalGeneration            // of another generation: join again
	RebalanceInProgress          // join again, same id
	InconsistentProtocol         // no protocol that all members can speak, or another one than chosen
	InvalidSessionTimeout        // outside Config's bounds
	MemberIDRequired             // join again with the id in the answer (KIP-394)
	FencedInstance               // another process joined under this instance id (KIP-345)
	TooManyMembers               // the group is full
	TooLarge                     // subscriptions or assignments exceed Config's bytes
	OffsetMetadataTooLarge       // longer than Config.MaxOffsetMetadataBytes
	NotAvailable                 // not stored, or the group is being removed: ask again
	NotEmpty                     // has members
	NotFound                     // no such group
	Subscribed                   // the group's members read this topic
	UnsupportedAssignor          // none of that name
	InvalidPattern               // of topic names: no regular expression, or one that costs too much
	UnreleasedInstance           // the member under this instance id has not left (KIP-848)
	FencedEpoch                  // of another epoch: give up all partitions and join again
	StaleEpoch                   // of another epoch than the member's: beat, then commit or fetch again
	NotForMembers                // members of the consumer protocol need a newer version of the request
	NumFaults                    // not a fault: how many there are
)

var faultText = [NumFaults]string{
	OK:                     "ok",
	UnknownMember:          "unknown member",
	IllegalGeneration:      "illegal generation",
	RebalanceInProgress:    "rebalance in progress",
	InconsistentProtocol:   "inconsistent protocol",
	InvalidSessionTimeout:  "invalid session timeout",
	MemberIDRequired:       "member id required",
	FencedInstance:         "fenced instance id",
	TooManyMembers:         "too many members",
	TooLarge:               "group too large",
	OffsetMetadataTooLarge: "offset metadata too large",
	NotAvailable:           "not available",
	NotEmpty:               "group not empty",
	NotFound:               "group not found",
	Subscribed:             "group subscribed to topic",
	UnsupportedAssignor:    "unsupported assignor",
	InvalidPattern:         "invalid pattern",
	UnreleasedInstance:     "unreleased instance id",
	FencedEpoch:            "fenced member epoch",
	StaleEpoch:             "stale member epoch",
	NotForMembers:          "not for members of the consumer protocol",
}

func (f Fault) String() string {
	if f < NumFaults {
		return faultText[f]
	}
	return fmt.Sprintf("fault %d", uint8(f))
}
