package mqtt

import (
	"bytes"
	"strconv"
	"strings"
	"sync"

	"github.com/weir-io/weir/mqtt/deliver"
)

// sysEvery is how many seconds lie between two publications of $SYS.
const sysEvery = 60

// sysTopics serves $SYS from counters, to those who subscribed, when there are any. These messages are
// figures about this node: they do not go through the log and nobody can publish them.
type sysTopics struct {
	mu      sync.Mutex
	clients map[*client]struct{}
}

const sysPrefix = "$SYS/"

func isSys(topic []byte) bool { return bytes.HasPrefix(topic, []byte(sysPrefix)) }

// isSysFilter tells whether a filter asks for $SYS; wildcards in the first level do not. // MQTT5 [MQTT-4.7.2-1]
func isSysFilter(filter string) bool { return strings.HasPrefix(filter, sysPrefix) }

// add enters a subscription and sends its current values at once.
func (t *sysTopics) add(cl *client, sub *deliver.Sub) {
	t.enter(cl)
	sendSys(cl, []deliver.Sub{*sub}, cl.srv.sysValues())
}

// enter makes publish look at a client's subscriptions.
func (t *sysTopics) enter(cl *client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clients == nil {
		t.clients = map[*client]struct{}{}
	}
	t.clients[cl] = struct{}{}
}

func (t *sysTopics) remove(cl *client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.clients, cl)
}

func (t *sysTopics) publish(s *Server) {
	t.mu.Lock()
	clients := make([]*client, 0, len(t.clients))
	for cl := range t.clients {
		clients = append(clients, cl)
	}
	t.mu.Unlock()
	if len(clients) == 0 {
		return
	}
	values := s.sysValues()
	for _, cl := range clients {
		cl.mu.Lock()
		subs := cl.subs
		cl.mu.Unlock()
		sendSys(cl, subs, values)
	}
}

type sysValue struct{ topic, value string }

func (s *Server) sysValues() []sysValue {
	st := s.Stats()
	n := func(topic string, v int64) sysValue {
		return sysValue{sysPrefix + "broker/" + topic, strconv.FormatInt(v, 10)}
	}
	return []sysValue{
		{sysPrefix + "broker/version", "weir"},
		n("uptime", s.millis()/1000),
		n("clients/connected", st.Connections),
		n("clients/total", st.Sessions),
		n("clients/expired", st.SessionsExpired),
		n("messages/received", st.Published),
		n("messages/sent", st.Delivered),
		n("bytes/received", st.BytesIn),
		n("bytes/sent", st.BytesOut),
	}
}

func sendSys(cl *client, subs []deliver.Sub, values []sysValue) {
	for _, v := range values {
		for i := range subs {
			if !isSysFilter(subs[i].Filter) || !matchTopic(subs[i].Filter, v.topic) {
				continue
			}
			m := deliver.Message{Topic: []byte(v.topic), Payload: []byte(v.value), Offset: -1}
			var ids []uint32
			if subs[i].ID != 0 {
				ids = []uint32{subs[i].ID}
			}
			cl.Deliver(&m, 0, false, ids)
			break
		}
	}
}

// matchTopic tells whether a valid filter matches a topic.
func matchTopic(filter, topic string) bool {
	for {
		f, frest, fmore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, trest, tmore := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		if !fmore || !tmore {
			return fmore == tmore || fmore && frest == "#"
		}
		filter, topic = frest, trest
	}
}
