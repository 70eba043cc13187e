package mqtt

import (
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/deliver"
)

// RetainRecord makes a record that did not come through MQTT the retained message of the topic in its header mqtt.topic, which must be one, or removes that one when
// its value is empty. done is called once that is committed; it may run on a committer's goroutine. The record is copied.
func (s *Server) RetainRecord(r *log.Record, done func(error)) {
	var m deliver.Message
	m.FromRecord(r)
	m.Retain = true
	s.hub.SetRetained(&m, done)
}
