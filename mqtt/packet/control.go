package packet

import "strings"

// Connect is a CONNECT packet. It owns its memory.
type Connect struct {
	Version     byte // V311 or V5
	CleanStart  bool // clean session in 3.1.1
	KeepAlive   uint16
	ClientID    string // may be empty: the server then assigns one
	HasUserName bool
	HasPassword bool
	UserName    string
	Password    []byte
	Will        *Will // nil when the will flag is off

	SessionExpiry   uint32 // seconds; 0xFFFFFFFF never
	ReceiveMaximum  uint16 // 0 when absent
	MaxPacket       uint32 // 0 when absent
	AliasMaximum    uint16
	NoProblemInfo   bool // the client asked for no reason strings and user properties
	RequestResponse bool
	AuthMethod      string
	AuthData        []byte
	User            []UserProperty
}

// Will is the message that the server publishes for a client that went away without saying so.
type Will struct {
	Topic         string
	Payload       []byte
	QoS           byte
	Retain        bool
	Delay         uint32 // seconds
	HasExpiry     bool
	Expiry        uint32 // seconds
	PayloadFormat byte
	ContentType   []byte
	ResponseTopic []byte
	Correlation   []byte
	User          []UserProperty
}

// Connack is the server's answer to CONNECT.
type Connack struct {
	SessionPresent bool
	Reason         Reason
	ReasonString   string

	// MQTT 5 only. A zero value is left out, save for the fields with a comment.
	SessionExpiry   uint32
	HasExpiry       bool // the server changed the session expiry to SessionExpiry
	ReceiveMaximum  uint16
	MaxPacket       uint32
	AliasMaximum    uint16
	KeepAlive       uint16 // always sent
	AssignedID      string
	ResponseInfo    string
	AuthMethod      string
	AuthData        []byte
	NoSharedSubs    bool
	NoRetain        bool
	ServerReference string
}

// Subscription is one entry of a SUBSCRIBE.
type Subscription struct {
	Filter            string // as sent, with any $share prefix
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
}

// Subscribe is a SUBSCRIBE packet.
type Subscribe struct {
	PacketID uint16
	ID       uint32 // subscription identifier, 0 when absent
	Filters  []Subscription
}

// Unsubscribe is an UNSUBSCRIBE packet.
type Unsubscribe struct {
	PacketID uint16
	Filters  []string
}

// Disconnect is a DISCONNECT packet, in either direction.
type Disconnect struct {
	Reason          Reason
	ReasonString    string
	HasExpiry       bool
	SessionExpiry   uint32
	ServerReference string
}

// Auth is an AUTH packet of MQTT 5's enhanced authentication.
type Auth struct {
	Reason Reason
	Method string
	Data   []byte
}

// sharePrefix marks a shared subscription (MQTT 5 §4.8.2).
const sharePrefix = "$share/"

// ParseFilter splits a subscription filter into its share group ("" when it is not shared) and the topic
// filter proper, and tells whether both are well formed: `#` only as the whole last level, `+` only as a
// whole level, a share name without wildcards. // MQTT5 [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.8.2-1] [MQTT-4.8.2-2]
func ParseFilter(s string) (group, filter string, ok bool) {
	if rest, shared := strings.CutPrefix(s, sharePrefix); shared {
		name, f, found := strings.Cut(rest, "/")
		if !found || name == "" || strings.ContainsAny(name, "+#") {
			return "", "", false
		}
		return name, f, validFilter(f)
	}
	return "", s, s != "$share" && validFilter(s)
}

func validFilter(s string) bool {
	if s == "" || len(s) > 0xffff { // MQTT5 [MQTT-4.7.3-1]
		return false
	}
	for level, rest, more := "", s, true; more; {
		level, rest, more = strings.Cut(rest, "/")
		if strings.Contains(level, "#") && (level != "#" || more) {
			return false
		}
		if strings.Contains(level, "+") && level != "+" {
			return false
		}
	}
	return true
}

// ValidTopic tells whether s may be a topic name: not empty, no wildcard, good UTF-8.
func ValidTopic(s string) bool {
	return s != "" && len(s) <= 0xffff && !hasWildcard([]byte(s)) && ValidUTF8([]byte(s))
}
