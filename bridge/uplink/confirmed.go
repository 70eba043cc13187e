package uplink

import "bytes"

// Confirmed is a stored cursor as it is told to who compares both ends.
type Confirmed struct {
	Topic     string `json:"topic"`
	ID        string `json:"id"` // of the topic: one of the same name that was made later has another
	Partition int32  `json:"partition"`
	Cursor
	Left account `json:"left,omitempty"` // by rule, and told by no record yet
}

// ParseConfirmed reads an entry of the Store. Its ID is empty when it is not one of the uplink; false when nothing of the partition is confirmed, or not any more.
func ParseConfirmed(uplink string, key, value []byte) (c Confirmed, is bool, err error) {
	rest, mine := bytes.CutPrefix(key, []byte("cursor/"+uplink+"/"))
	if !mine {
		return c, false, nil
	}
	id, err := parsePartitionKey(string(rest))
	if err != nil {
		return c, false, err
	}
	c = Confirmed{ID: id.Topic.String(), Partition: id.Index}
	if value == nil {
		return c, false, nil
	}
	p, err := parseProgress(value)
	c.Topic, c.Cursor, c.Left = p.Topic, p.Cursor, p.Left
	return c, err == nil && p.At != 0, err
}
