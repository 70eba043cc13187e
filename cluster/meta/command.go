package meta

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/log"
)

// Limits on what one command may carry. They keep an entry far below what raft and a small board take in one piece.
const (
	MaxCommandBytes = 4 << 20
	MaxTopicName    = 249    // as Kafka's: the directory name with "-<uuid>" stays below 255 bytes
	MaxPartitions   = 10_000 // of one topic
	MaxReplicas     = 16
	maxConfigs      = 100
	maxConfigBytes  = 1 << 10 // of one value
	maxHost         = 255
	MaxNonces       = 64
)

// ProducerIDBlock is how many producer ids one AllocProducerIDs gives out.
const ProducerIDBlock = 1000

// Sentinels of this room.
var (
	// ErrConflict: what the command meant to change has moved on since its proposer looked. Look again and decide again.
	ErrConflict = errors.New("metadata changed meanwhile")
	// ErrExists: a topic of that name or id exists.
	ErrExists = errors.New("topic exists")
	// ErrNotFound: no such topic or broker.
	ErrNotFound = errors.New("not found")
	// ErrRefused: the state does not allow it; looking again does not help.
	ErrRefused = errors.New("refused")
	// ErrFormat: the bytes are no command or snapshot that this build understands.
	ErrFormat = errors.New("metadata in a form that this version of weir does not understand")
	// ErrUnavailable: no quorum took the command in time, or it is not known whether one did.
	ErrUnavailable = errors.New("metadata quorum unavailable")
)

// Command is one change of metadata. What it needs of chance or time it carries (C1).
type Command interface {
	kind() kind
	// apply changes next, which is a shallow copy of the Image before with Version already raised.
	// It replaces what next points to, never writes into it. On error next is thrown away.
	apply(next *Image) (any, error)
}

type kind byte

const (
	kindRegisterBroker kind = 1 + iota
	kindCreateTopic
	kindDeleteTopic
	kindCreatePartitions
	kindAlterConfigs
	kindAllocProducerIDs
	kindFenceBrokers
	kindUnfenceBroker
	kindStopBroker
	kindRemoveBroker
	kindAlterPartitions
	kindElectLeaders
	kindReassign
	kindReportDamage
	kindDrainBroker
	kindAlterRules
	kindAlterCredentials
	kindAlterGroupConfigs
	kindAlterClientQuotas
)

func (k kind) new() Command {
	switch k {
	case kindRegisterBroker:
		return new(RegisterBroker)
	case kindCreateTopic:
		return new(CreateTopic)
	case kindDeleteTopic:
		return new(DeleteTopic)
	case kindCreatePartitions:
		return new(CreatePartitions)
	case kindAlterConfigs:
		return new(AlterConfigs)
	case kindAllocProducerIDs:
		return new(AllocProducerIDs)
	case kindFenceBrokers:
		return new(FenceBrokers)
	case kindUnfenceBroker:
		return new(UnfenceBroker)
	case kindStopBroker:
		return new(StopBroker)
	case kindRemoveBroker:
		return new(RemoveBroker)
	case kindAlterPartitions:
		return new(AlterPartitions)
	case kindElectLeaders:
		return new(ElectLeaders)
	case kindReassign:
		return new(Reassign)
	case kindReportDamage:
		return new(ReportDamage)
	case kindDrainBroker:
		return new(DrainBroker)
	case kindAlterRules:
		return new(AlterRules)
	case kindAlterCredentials:
		return new(AlterCredentials)
	case kindAlterGroupConfigs:
		return new(AlterGroupConfigs)
	case kindAlterClientQuotas:
		return new(AlterClientQuotas)
	}
	return nil
}

// RegisterBroker announces a process that has opened its data directory and verified its journal (J7).
// Its expected version is Held: the nonce accepted last must be among them (E5). Answers Registration.
type RegisterBroker struct {
	ClusterID string `cbor:"1,keyasint"`
	UUID      UUID   `cbor:"2,keyasint"`
	Nonce     UUID   `cbor:"3,keyasint"` // fresh, and synced in the directory before this is proposed
	Held      []UUID `cbor:"4,keyasint"`
	Host      string `cbor:"5,keyasint,omitempty"`
	KafkaPort int32  `cbor:"6,keyasint,omitempty"`
	Peer      string `cbor:"7,keyasint,omitempty"` // host:port for other nodes
	Zone      string `cbor:"8,keyasint,omitempty"`
	Witness   bool   `cbor:"9,keyasint,omitempty"`
	// Clean is the broker epoch of the process that left its mark of a clean end in the directory (E8), 0 without one. It counts
	// when that is the one registered last: a mark that should be gone may be there again after a power cut.
	Clean int64 `cbor:"10,keyasint,omitempty"`
	// Replaces is the broker epoch that an earlier request without the last nonce was refused for. Such a directory is let in
	// only by a second request that names it: a late copy of the first must not throw out a process that lives (E5).
	Replaces     int64 `cbor:"11,keyasint,omitempty"`
	KafkaTLSPort int32 `cbor:"12,keyasint,omitempty"`
}

// Registration is the answer to RegisterBroker.
type Registration struct {
	BrokerID    int32  `cbor:"1,keyasint"`
	BrokerEpoch int64  `cbor:"2,keyasint"`
	Version     uint64 `cbor:"3,keyasint"` // the Image that holds it
}

// CreateTopic adds a topic. Its expected version is that the name is free. Answers *Topic.
type CreateTopic struct {
	Name         string            `cbor:"1,keyasint"`
	ID           log.TopicID       `cbor:"2,keyasint"`
	Internal     bool              `cbor:"3,keyasint,omitempty"`
	AutoReplicas bool              `cbor:"4,keyasint,omitempty"`
	Configs      map[string]string `cbor:"5,keyasint,omitempty"`
	Assignment   [][]int32         `cbor:"6,keyasint"` // replicas of each partition, its first leader in front
	MinInsync    int               `cbor:"7,keyasint,omitempty"`
}

// DeleteTopic removes the topic with that id. Answers *Topic, as it was.
type DeleteTopic struct {
	ID     log.TopicID `cbor:"1,keyasint"`
	Expect uint64      `cbor:"2,keyasint"` // Topic.Version
}

// CreatePartitions adds partitions behind the existing ones. Answers *Topic.
type CreatePartitions struct {
	ID         log.TopicID `cbor:"1,keyasint"`
	Expect     uint64      `cbor:"2,keyasint"` // Topic.Version
	Assignment [][]int32   `cbor:"3,keyasint"`
}

// AlterConfigs sets and removes configs of one topic. Answers *Topic.
type AlterConfigs struct {
	ID     log.TopicID       `cbor:"1,keyasint"`
	Expect uint64            `cbor:"2,keyasint"` // Topic.Version
	Set    map[string]string `cbor:"3,keyasint,omitempty"`
	Delete []string          `cbor:"4,keyasint,omitempty"`
	// MinInsync is what min.insync.replicas is after the change (I7); 0 leaves it.
	MinInsync int `cbor:"5,keyasint,omitempty"`
}

// AllocProducerIDs hands a broker ProducerIDBlock ids to give to idempotent producers. Answers ProducerIDs.
type AllocProducerIDs struct {
	BrokerID    int32 `cbor:"1,keyasint"`
	BrokerEpoch int64 `cbor:"2,keyasint"` // a newer incarnation of the broker has replaced an older one
	Expect      int64 `cbor:"3,keyasint"` // Image.NextProducerID
}

// ProducerIDs is a block of ids: [First, First+Count).
type ProducerIDs struct {
	First int64 `cbor:"1,keyasint"`
	Count int64 `cbor:"2,keyasint"`
}

func (*RegisterBroker) kind() kind   { return kindRegisterBroker }
func (*CreateTopic) kind() kind      { return kindCreateTopic }
func (*DeleteTopic) kind() kind      { return kindDeleteTopic }
func (*CreatePartitions) kind() kind { return kindCreatePartitions }
func (*AlterConfigs) kind() kind     { return kindAlterConfigs }
func (*AllocProducerIDs) kind() kind { return kindAllocProducerIDs }

// formatV1 is the first byte of every command and snapshot.
const formatV1 = 1

var (
	encMode = func() cbor.EncMode {
		m, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			panic("BUG: cbor options: " + err.Error())
		}
		return m
	}()
	decMode = func() cbor.DecMode {
		m, err := cbor.DecOptions{
			DupMapKey:         cbor.DupMapKeyEnforcedAPF,
			IndefLength:       cbor.IndefLengthForbidden,
			TagsMd:            cbor.TagsForbidden,
			MaxNestedLevels:   8,
			ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, // written by a newer version: stop, do not diverge
		}.DecMode()
		if err != nil {
			panic("BUG: cbor options: " + err.Error())
		}
		return m
	}()
)

// EncodeCommand gives the bytes of cmd; the same command always gives the same bytes.
func EncodeCommand(cmd Command) ([]byte, error) {
	buf := bytes.NewBuffer([]byte{formatV1, byte(cmd.kind())})
	if err := encMode.NewEncoder(buf).Encode(cmd); err != nil {
		return nil, fmt.Errorf("encode %T: %w", cmd, err)
	}
	if buf.Len() > MaxCommandBytes {
		return nil, fmt.Errorf("%T of %d bytes, limit %d: %w", cmd, buf.Len(), MaxCommandBytes, ErrRefused)
	}
	return buf.Bytes(), nil
}

// DecodeCommand reads what EncodeCommand wrote. Every error is an ErrFormat.
func DecodeCommand(b []byte) (Command, error) {
	switch {
	case len(b) < 2 || len(b) > MaxCommandBytes:
		return nil, fmt.Errorf("command of %d bytes: %w", len(b), ErrFormat)
	case b[0] != formatV1:
		return nil, fmt.Errorf("command format %d, want %d: %w", b[0], formatV1, ErrFormat)
	}
	cmd := kind(b[1]).new()
	if cmd == nil {
		return nil, fmt.Errorf("command kind %d: %w", b[1], ErrFormat)
	}
	if err := decMode.Unmarshal(b[2:], cmd); err != nil {
		return nil, fmt.Errorf("command kind %d: %w: %w", b[1], ErrFormat, err)
	}
	return cmd, nil
}

// imageForm is the Image as a snapshot holds it.
type imageForm struct {
	Version        uint64    `cbor:"1,keyasint"`
	ClusterID      string    `cbor:"2,keyasint,omitempty"`
	NextBrokerID   int32     `cbor:"3,keyasint"`
	NextProducerID int64     `cbor:"4,keyasint"`
	Brokers        []*Broker `cbor:"5,keyasint,omitempty"`
	Topics         []*Topic  `cbor:"6,keyasint,omitempty"`
	Generation     uint32    `cbor:"7,keyasint,omitempty"`

	Rules              []access.Rule       `cbor:"8,keyasint,omitempty"`
	RulesVersion       uint64              `cbor:"9,keyasint,omitempty"`
	Credentials        []access.Credential `cbor:"10,keyasint,omitempty"`
	CredentialsVersion uint64              `cbor:"11,keyasint,omitempty"`
	GroupConfigs       []GroupConfigs      `cbor:"12,keyasint,omitempty"`
	GroupsVersion      uint64              `cbor:"13,keyasint,omitempty"`
	Quotas             []ClientQuotas      `cbor:"14,keyasint,omitempty"`
	QuotasVersion      uint64              `cbor:"15,keyasint,omitempty"`
	Secret             []byte              `cbor:"16,keyasint,omitempty"`
}

// maxSnapshotBytes bounds what a damaged length can make DecodeImage read.
const maxSnapshotBytes = 64 << 20

// Encode writes the snapshot form of im.
func (im *Image) Encode(w io.Writer) error {
	if _, err := w.Write([]byte{formatV1}); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	err := encMode.NewEncoder(w).Encode(imageForm{
		im.Version, im.ClusterID, im.NextBrokerID, im.NextProducerID, im.brokers, im.topics, im.Generation,
		im.rules.Rules(), im.RulesVersion, im.credentials, im.CredentialsVersion, im.groupConfigs, im.GroupsVersion,
		im.quotas, im.QuotasVersion, im.secret,
	})
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// DecodeImage reads what Encode wrote, and checks it.
func DecodeImage(r io.Reader) (*Image, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSnapshotBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read snapshot: %w", err)
	case len(b) == 0 || len(b) > maxSnapshotBytes:
		return nil, fmt.Errorf("snapshot of %d bytes: %w", len(b), ErrFormat)
	case b[0] != formatV1:
		return nil, fmt.Errorf("snapshot format %d, want %d: %w", b[0], formatV1, ErrFormat)
	}
	var f imageForm
	if err := decMode.Unmarshal(b[1:], &f); err != nil {
		return nil, fmt.Errorf("snapshot: %w: %w", ErrFormat, err)
	}
	im := &Image{
		Version: f.Version, ClusterID: f.ClusterID, NextBrokerID: f.NextBrokerID, NextProducerID: f.NextProducerID, Generation: f.Generation,
		brokers: f.Brokers, topics: f.Topics, byID: make(map[log.TopicID]*Topic, len(f.Topics)),
		RulesVersion: f.RulesVersion, CredentialsVersion: f.CredentialsVersion, credentials: f.Credentials,
		GroupsVersion: f.GroupsVersion, groupConfigs: f.GroupConfigs, QuotasVersion: f.QuotasVersion, quotas: f.Quotas,
		secret: f.Secret,
	}
	for i := range f.Rules {
		if err := f.Rules[i].Validate(); err != nil { // before they are indexed
			return nil, fmt.Errorf("snapshot: %w: rule %d: %w", ErrFormat, i, err)
		}
	}
	if len(f.Rules) > 0 {
		im.rules = access.NewSet(f.Rules)
	}
	for _, b := range im.brokers {
		if b == nil {
			return nil, fmt.Errorf("snapshot: %w: null broker", ErrFormat)
		}
	}
	for _, t := range im.topics {
		if t == nil {
			return nil, fmt.Errorf("snapshot: %w: null topic", ErrFormat)
		}
		im.byID[t.ID] = t
	}
	if err := im.Check(); err != nil {
		return nil, fmt.Errorf("snapshot: %w: %w", ErrFormat, err)
	}
	return im, nil
}
