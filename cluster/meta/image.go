package meta

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/log"
)

// NoLeader is the leader of a partition that has none.
const NoLeader int32 = -1

// UUID is the random 128-bit id of a broker, or a registration nonce.
type UUID [16]byte

func (u UUID) String() string { return fmt.Sprintf("%x", u[:]) }

// Image is the metadata at one version. It and all it points to are never changed after it was made:
// share it freely, and do not write to what it returns.
type Image struct {
	// Version counts the commands that changed something. It rises by one with each, and by far in a recovery.
	Version uint64
	// ClusterID is empty until the first broker registered (C3).
	ClusterID string
	// NextBrokerID and NextProducerID are the lowest numbers never given out.
	NextBrokerID   int32
	NextProducerID int64
	// Generation counts recoveries of the quorum (E2).
	Generation uint32
	// RulesVersion, CredentialsVersion, GroupsVersion (of the configs of consumer groups) and QuotasVersion (of clients) are the versions that changed those last.
	RulesVersion, CredentialsVersion, GroupsVersion, QuotasVersion uint64

	brokers     []*Broker // by ID
	topics      []*Topic  // by Name
	byID        map[log.TopicID]*Topic
	rules       *access.Set // nil: none
	credentials []access.Credential
	secret      []byte

	groupConfigs []GroupConfigs // by Group
	quotas       []ClientQuotas // by Entity
}

// Broker is one registered incarnation of a data directory.
type Broker struct {
	ID    int32 `cbor:"1,keyasint"`
	UUID  UUID  `cbor:"2,keyasint"`
	Epoch int64 `cbor:"3,keyasint"` // BE: the Image version that registered this incarnation
	Nonce UUID  `cbor:"4,keyasint"` // the nonce accepted last (E5)
	// Host, KafkaPort and KafkaTLSPort are what clients are told; a port of 0 means that it has no such listener.
	Host      string `cbor:"5,keyasint,omitempty"`
	KafkaPort int32  `cbor:"6,keyasint,omitempty"`
	// Peer is host:port where other nodes reach it.
	Peer string `cbor:"7,keyasint,omitempty"`
	Zone string `cbor:"8,keyasint,omitempty"` // replicas are spread over zones
	// Witness votes on metadata and takes no replicas.
	Witness bool `cbor:"9,keyasint,omitempty"`
	// Fenced: its lease has run out (E4). Stopping: it hands over and leaves (E8). It then leads nothing new.
	Fenced   bool `cbor:"10,keyasint,omitempty"`
	Stopping bool `cbor:"11,keyasint,omitempty"`

	KafkaTLSPort int32 `cbor:"12,keyasint,omitempty"`
	// Draining: an operator takes it out of the cluster. It goes on as it is, is given nothing new, and others get what it has; that outlasts a restart.
	Draining bool `cbor:"13,keyasint,omitempty"`
}

// Topic is one incarnation of a topic.
type Topic struct {
	Name     string      `cbor:"1,keyasint"`
	ID       log.TopicID `cbor:"2,keyasint"`
	Internal bool        `cbor:"3,keyasint,omitempty"`
	// AutoReplicas: the number of replicas follows the number of brokers (C7); nobody asked for a fixed one.
	AutoReplicas bool              `cbor:"4,keyasint,omitempty"`
	Configs      map[string]string `cbor:"5,keyasint,omitempty"` // only those set on the topic
	Partitions   []Partition       `cbor:"6,keyasint"`
	Version      uint64            `cbor:"7,keyasint"` // the Image version that changed the topic last
	// MinInsync is min.insync.replicas, which elections go by (E3); 0 counts as 1.
	MinInsync int `cbor:"8,keyasint,omitempty"`
}

// NewImage is the state before the first command.
func NewImage() *Image { return &Image{NextBrokerID: 1, byID: map[log.TopicID]*Topic{}} }

// Topics lists all topics by name.
func (im *Image) Topics() []*Topic { return im.topics }

// Topic is the topic of that name, or nil.
func (im *Image) Topic(name string) *Topic {
	if i, ok := im.findTopic(name); ok {
		return im.topics[i]
	}
	return nil
}

// TopicByID is the topic with that id, or nil.
func (im *Image) TopicByID(id log.TopicID) *Topic { return im.byID[id] }

// Brokers lists all brokers by id.
func (im *Image) Brokers() []*Broker { return im.brokers }

// Broker is the broker with that id, or nil.
func (im *Image) Broker(id int32) *Broker {
	if i, ok := im.findBroker(id); ok {
		return im.brokers[i]
	}
	return nil
}

// BrokerByUUID is the broker with that identity, or nil.
func (im *Image) BrokerByUUID(u UUID) *Broker {
	for _, b := range im.brokers {
		if b.UUID == u {
			return b
		}
	}
	return nil
}

func (im *Image) findTopic(name string) (int, bool) {
	return slices.BinarySearchFunc(im.topics, name, func(t *Topic, name string) int { return strings.Compare(t.Name, name) })
}

func (im *Image) findBroker(id int32) (int, bool) {
	return slices.BinarySearchFunc(im.brokers, id, func(b *Broker, id int32) int { return int(b.ID) - int(id) })
}

// Check tests every invariant that a single Image can show.
func (im *Image) Check() error {
	if im.Generation > MaxGeneration {
		return fmt.Errorf("generation %d, limit %d (E2)", im.Generation, MaxGeneration)
	}
	if len(im.byID) != len(im.topics) {
		return fmt.Errorf("%d topics by id, %d by name", len(im.byID), len(im.topics))
	}
	uuids := make(map[UUID]bool, len(im.brokers))
	for i, b := range im.brokers {
		switch {
		case i > 0 && im.brokers[i-1].ID >= b.ID:
			return fmt.Errorf("broker %d follows broker %d", b.ID, im.brokers[i-1].ID)
		case b.ID < 1 || b.ID >= im.NextBrokerID:
			return fmt.Errorf("broker %d: the next id is %d (C2)", b.ID, im.NextBrokerID)
		case uuids[b.UUID]:
			return fmt.Errorf("broker %d: another broker has its uuid %s (C4)", b.ID, b.UUID)
		case b.Epoch < 1 || uint64(b.Epoch) > im.Version:
			return fmt.Errorf("broker %d: epoch %d at version %d", b.ID, b.Epoch, im.Version)
		}
		uuids[b.UUID] = true
	}
	if err := errors.Join(im.checkAccess(), im.checkGroups(), im.checkQuotas()); err != nil {
		return err
	}
	for i, t := range im.topics {
		if i > 0 && im.topics[i-1].Name >= t.Name {
			return fmt.Errorf("topic %q follows topic %q", t.Name, im.topics[i-1].Name)
		}
		if err := im.checkTopic(t); err != nil {
			return fmt.Errorf("topic %q: %w", t.Name, err)
		}
	}
	return nil
}

func (im *Image) checkTopic(t *Topic) error {
	switch {
	case t.Name == "" || len(t.Name) > MaxTopicName:
		return fmt.Errorf("name of %d bytes", len(t.Name))
	case im.byID[t.ID] != t:
		return fmt.Errorf("not found under its id %s", t.ID)
	case t.Version < 1 || t.Version > im.Version:
		return fmt.Errorf("version %d of %d", t.Version, im.Version)
	case len(t.Partitions) == 0:
		return fmt.Errorf("no partition")
	case t.MinInsync < 0 || t.MinInsync > MaxReplicas:
		return fmt.Errorf("min.insync.replicas %d", t.MinInsync)
	}
	for i := range t.Partitions {
		if err := im.checkPartition(t, &t.Partitions[i]); err != nil {
			return fmt.Errorf("partition %d: %w", i, err)
		}
	}
	return nil
}

func (im *Image) checkPartition(t *Topic, p *Partition) error {
	if err := im.checkReplicas(p.Replicas); err != nil {
		return err
	}
	for i, id := range p.ISR {
		if !slices.Contains(p.Replicas, id) || slices.Contains(p.ISR[:i], id) {
			return fmt.Errorf("isr %v of replicas %v (I1)", p.ISR, p.Replicas)
		}
	}
	members := slices.Concat(p.ISR, p.ELR)
	for _, set := range [][]int32{p.ELR, p.Damaged, p.Adding, p.Removing} {
		if len(without(set, p.Replicas...)) > 0 {
			return fmt.Errorf("%v outside replicas %v", set, p.Replicas)
		}
	}
	switch leader := im.Broker(p.Leader); {
	case p.Leader != NoLeader && !slices.Contains(p.ISR, p.Leader):
		return fmt.Errorf("leader %d outside isr %v (E1)", p.Leader, p.ISR)
	case leader != nil && leader.Fenced:
		return fmt.Errorf("leader %d is fenced (E4)", p.Leader)
	case slices.Contains(p.Restarted, p.Leader):
		return fmt.Errorf("leader %d counts as restarted", p.Leader)
	case len(common(p.ISR, p.ELR)) > 0:
		return fmt.Errorf("isr %v and elr %v overlap (E3)", p.ISR, p.ELR)
	case len(without(p.Restarted, members...)) > 0:
		return fmt.Errorf("restarted %v outside isr %v and elr %v (E5)", p.Restarted, p.ISR, p.ELR)
	case len(common(p.Damaged, members)) > 0:
		return fmt.Errorf("damaged %v in isr %v or elr %v (E7)", p.Damaged, p.ISR, p.ELR)
	case len(p.Target()) == 0:
		return fmt.Errorf("no replica stays of %v", p.Replicas)
	case p.LastUnclean > p.LeaderEpoch:
		return fmt.Errorf("unclean election in epoch %d, epoch is %d", p.LastUnclean, p.LeaderEpoch)
	case p.LeaderEpoch < im.firstEpoch():
		return fmt.Errorf("leader epoch %d of generation %d (E2)", p.LeaderEpoch, im.Generation)
	case p.LeaderEpoch < 0 || p.PartitionEpoch < int32(p.LeaderEpoch):
		return fmt.Errorf("leader epoch %d, partition epoch %d (E2)", p.LeaderEpoch, p.PartitionEpoch)
	case p.Since < 1 || p.Since > t.Version:
		return fmt.Errorf("added at version %d, topic changed last at %d", p.Since, t.Version)
	}
	return nil
}

func (im *Image) checkReplicas(replicas []int32) error {
	if len(replicas) == 0 {
		return fmt.Errorf("no replica")
	}
	for i, id := range replicas {
		if im.Broker(id) == nil {
			return fmt.Errorf("replica %d is no registered broker", id)
		}
		if slices.Contains(replicas[:i], id) {
			return fmt.Errorf("replica %d twice", id)
		}
	}
	return nil
}
