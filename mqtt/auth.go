package mqtt

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/weir-io/weir/internal/strictyaml"
	"github.com/weir-io/weir/mqtt/deliver"
)

// Action is what a client wants to do with a topic.
type Action byte

const (
	Publish   Action = iota // topic is a topic name: of a PUBLISH, its alias resolved, or of a will
	Subscribe               // topic is a topic filter, shared or not
)

func (a Action) String() string {
	if a == Subscribe {
		return "subscribe"
	}
	return "publish"
}

// ClientInfo is what a CONNECT says about its client.
type ClientInfo struct {
	ClientID    string // after the server gave one to a client that sent none
	UserName    string // empty, and no password: anonymous
	HasPassword bool
	Password    []byte
	RemoteAddr  string
	TLS         *tls.ConnectionState // nil on plain connections
}

// Identity is who a connection was found to be. It is comparable and does not change.
type Identity struct {
	Name     string // the user, empty for anonymous clients
	ClientID string
	// Principal is what rules call the user, who has proved that he is it; Host is where the client is. Both are the Authorizer's to set, and to look at.
	Principal, Host string
	rules           *ruleSet
}

var (
	// ErrBadCredentials: unknown user or wrong password; the client is not told which. 0x86, or 4 in 3.1.1.
	ErrBadCredentials = errors.New("bad user name or password")
	// ErrClientID: the client may connect, but not under this identifier. 0x85, or 2 in 3.1.1.
	ErrClientID = errors.New("client identifier not allowed")
	// ErrNotAuthorized: this client may not connect at all. 0x87, or 5 in 3.1.1.
	ErrNotAuthorized = errors.New("not authorized")
)

// Authorizer decides who may connect and what they may do. Methods are called concurrently.
// Authenticate may take a tenth of a second, since it verifies password hashes; Allow is asked for each
// new topic and answers from memory. Authenticate's errors are ErrBadCredentials, ErrClientID or
// ErrNotAuthorized; any other one counts as the first.
type Authorizer interface {
	Authenticate(ClientInfo) (Identity, error)
	Allow(id Identity, a Action, topic []byte) bool
}

// AllowAll lets everybody do everything: the authorizer of a node on loopback without a users file.
type AllowAll struct{}

// Authenticate accepts the client and believes its user name.
func (AllowAll) Authenticate(c ClientInfo) (Identity, error) {
	return Identity{ClientID: c.ClientID, Name: c.UserName}, nil
}

// Adopt believes the other node.
func (AllowAll) Adopt(id Identity) (Identity, error) { return id, nil }

// Allow is always true.
func (AllowAll) Allow(Identity, Action, []byte) bool { return true }

// AuthFile is the users-and-rules file. Once there is one, everything it does not allow is denied.
//
//	users:
//	  - name: plant-7
//	    password: "$2a$10$..."               # weir's own hashes, bcrypt, or mosquitto_passwd's $7$
//	    publish: [plants/7/#]
//	    subscribe: [plants/7/#, "commands/%u/+"]
//	  - name: operator
//	    password: "$2a$10$..."
//	    admin: true                          # may do everything, over MQTT and the Kafka protocol
//	everyone:                                # besides their own: every client, anonymous ones too
//	  publish: ["devices/%c/#"]              # %c is the client id, %u the user name
//	  subscribe: ["devices/%c/commands"]
//	anonymous:                               # leave out to refuse clients without a user name
//	  publish: [public/#]
//
// publish and subscribe are lists of topic filters. A client may publish to a topic that one of them
// matches, and subscribe to a filter when one of them covers it: every topic that the wanted filter
// matches, the allowed one matches too. So with subscribe [plants/+/heat] a client may ask for
// plants/7/heat and plants/+/heat, but not for plants/#. As in MQTT, "#" does not include topics
// that begin with "$": allow "$SYS/#" by itself. A filter with %c or %u matches nothing when the
// client id or user name is empty or holds '/', '+' or '#': it could reach into another's topics.
type AuthFile struct {
	Users     []AuthUser `yaml:"users,omitempty"`
	Everyone  *AuthRules `yaml:"everyone,omitempty"`
	Anonymous *AuthRules `yaml:"anonymous,omitempty"`
}

// AuthUser is one user of the file.
type AuthUser struct {
	Name      string `yaml:"name"`
	Password  string `yaml:"password"` // a hash, see HashPassword
	Admin     bool   `yaml:"admin,omitempty"`
	AuthRules `yaml:",inline"`
}

// AuthRules are the topics that someone may use.
type AuthRules struct {
	Publish   []string `yaml:"publish,omitempty"`
	Subscribe []string `yaml:"subscribe,omitempty"`
}

// StaticAuth is the Authorizer of an AuthFile. It is immutable; a reload builds a new one.
type StaticAuth struct {
	users     map[string]*staticUser
	anonymous *ruleSet // nil = refused
	everyone  *ruleSet
	listed    []FileRule
	hasher    *Passwords
}

type staticUser struct {
	hash  passwordHash
	rules *ruleSet
}

// LoadAuth reads a users-and-rules file. Errors name the file, and line or entry and field.
func LoadAuth(path string) (*StaticAuth, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("users file: %w", err)
	}
	a, err := ParseAuth(text)
	if err != nil {
		return nil, fmt.Errorf("users file %s: %w", path, err)
	}
	return a, nil
}

// ParseAuth is LoadAuth for the text of a file. An empty one denies everything.
func ParseAuth(text []byte) (*StaticAuth, error) {
	var f AuthFile
	if err := strictyaml.Decode(text, &f); err != nil {
		return nil, err
	}
	return NewStaticAuth(&f)
}

// NewStaticAuth checks a file's contents; all faults are reported at once.
func NewStaticAuth(f *AuthFile) (*StaticAuth, error) {
	a := &StaticAuth{users: map[string]*staticUser{}, hasher: NewPasswords()}
	var errs []error
	compile := func(where string, parts ...*AuthRules) *ruleSet {
		set := &ruleSet{}
		for _, r := range parts {
			if r == nil {
				continue
			}
			errs = append(errs, set.add(where+".publish", Publish, r.Publish)...)
			errs = append(errs, set.add(where+".subscribe", Subscribe, r.Subscribe)...)
		}
		return set
	}
	everyone := compile("everyone", f.Everyone)
	a.everyone, a.listed = everyone, fileRules("", f.Everyone)
	for i := range f.Users {
		u := &f.Users[i]
		where := fmt.Sprintf("users[%d]", i)
		hash, err := parseHash(u.Password)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s.password: %w", where, err))
		}
		switch {
		case u.Name == "":
			errs = append(errs, fmt.Errorf("%s.name: missing", where))
		case a.users[u.Name] != nil:
			errs = append(errs, fmt.Errorf("%s.name: %q is listed twice", where, u.Name))
		}
		if u.Admin && len(u.Publish)+len(u.Subscribe) > 0 {
			errs = append(errs, errAdminRules(where))
		}
		a.users[u.Name] = &staticUser{hash: hash, rules: compile(where, &u.AuthRules).with(everyone)}
		a.users[u.Name].rules.admin = u.Admin
		a.listed = append(a.listed, fileRules(u.Name, &u.AuthRules)...)
	}
	if f.Anonymous != nil {
		a.anonymous = compile("anonymous", f.Anonymous).with(everyone)
		a.listed = append(a.listed, fileRules(AnonymousUser, f.Anonymous)...)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return a, nil
}

// Authenticate finds the user and checks the password. Clients without a user name are anonymous.
func (a *StaticAuth) Authenticate(c ClientInfo) (Identity, error) {
	if c.UserName == "" && !c.HasPassword {
		if a.anonymous == nil {
			return Identity{}, ErrNotAuthorized
		}
		return Identity{ClientID: c.ClientID, rules: a.anonymous}, nil
	}
	u := a.users[c.UserName]
	if u == nil {
		a.hasher.Waste(c.Password)
		return Identity{}, ErrBadCredentials
	}
	if !a.hasher.Check(c.UserName, c.Password, u.hash.matches) {
		return Identity{}, ErrBadCredentials
	}
	return Identity{ClientID: c.ClientID, Name: c.UserName, rules: u.rules}, nil
}

// Adopt implements Adopter: the user has to be in the file, and has what it gives.
func (a *StaticAuth) Adopt(id Identity) (Identity, error) {
	if id.Name == "" {
		if id.rules = a.anonymous; id.rules == nil {
			return Identity{}, ErrNotAuthorized
		}
		return id, nil
	}
	u := a.users[id.Name]
	if u == nil {
		return Identity{}, ErrBadCredentials
	}
	id.rules = u.rules
	return id, nil
}

// Allow tells whether the rules allow the action. An Identity of another authorizer is denied.
func (a *StaticAuth) Allow(id Identity, action Action, topic []byte) bool {
	return id.rules != nil && id.rules.allow(&id, action, topic)
}

// ruleSet is the compiled filters of one kind of client.
type ruleSet struct {
	admin              bool
	publish, subscribe []aclFilter
}

// aclFilter is a filter by levels.
type aclFilter []aclLevel

// aclLevel is a wildcard, or text in pieces with the client id or user name in between.
type aclLevel struct {
	wild   byte // '+', '#' or 0
	pieces []aclPiece
}

type aclPiece struct {
	text string
	name byte // 'c', 'u', or 0 for text
}

func (s *ruleSet) add(where string, action Action, filters []string) []error {
	var errs []error
	for i, text := range filters {
		f, err := parseACLFilter(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s[%d]: %w", where, i, err))
			continue
		}
		if action == Publish {
			s.publish = append(s.publish, f)
		} else {
			s.subscribe = append(s.subscribe, f)
		}
	}
	return errs
}

// with appends another set's filters.
func (s *ruleSet) with(o *ruleSet) *ruleSet {
	s.publish = append(s.publish, o.publish...)
	s.subscribe = append(s.subscribe, o.subscribe...)
	return s
}

func parseACLFilter(text string) (aclFilter, error) {
	group, _, err := deliver.ParseFilter(text)
	if err != nil {
		return nil, err
	}
	if group != "" {
		return nil, fmt.Errorf("%q: write the filter without $share/GROUP/; it holds for shared subscriptions too", text)
	}
	var f aclFilter
	if text == "+/#" {
		text = "#" // the same topics, since every topic has a first level
	}
	for _, l := range strings.Split(text, "/") {
		if l == "+" || l == "#" {
			f = append(f, aclLevel{wild: l[0]})
			continue
		}
		level := aclLevel{}
		for l != "" {
			i := strings.IndexByte(l, '%')
			if i < 0 {
				level.pieces = append(level.pieces, aclPiece{text: l})
				break
			}
			if i > 0 {
				level.pieces = append(level.pieces, aclPiece{text: l[:i]})
			}
			if i+1 == len(l) || strings.IndexByte("cu%", l[i+1]) < 0 {
				return nil, fmt.Errorf("%q: after '%%' comes c (client id), u (user name) or %%", text)
			}
			if l[i+1] == '%' {
				level.pieces = append(level.pieces, aclPiece{text: "%"})
			} else {
				level.pieces = append(level.pieces, aclPiece{name: l[i+1]})
			}
			l = l[i+2:]
		}
		f = append(f, level)
	}
	return f, nil
}

func (s *ruleSet) allow(id *Identity, action Action, topic []byte) bool {
	filters := s.publish
	if action == Subscribe {
		filters = s.subscribe
		if rest, shared := bytes.CutPrefix(topic, []byte("$share/")); shared {
			_, topic, _ = bytes.Cut(rest, []byte("/"))
		}
	}
	if len(topic) == 0 {
		return false
	}
	if s.admin {
		return true
	}
	for _, f := range filters {
		if f.covers(id, action, topic) {
			return true
		}
	}
	return false
}

// covers tells whether every topic that want matches, f matches too; want is a plain topic name for
// publishes. Deciding level by level is exact, since '+' takes one level and '#' ends a filter.
func (f aclFilter) covers(id *Identity, action Action, want []byte) bool {
	if want[0] == '$' && f[0].wild != 0 {
		return false
	}
	more := true
	for i := range f {
		if f[i].wild == '#' {
			return true
		}
		if !more {
			return false
		}
		level := want
		if cut := bytes.IndexByte(want, '/'); cut >= 0 {
			level, want = want[:cut], want[cut+1:]
		} else {
			more = false
		}
		if action == Subscribe && string(level) == "#" {
			return false
		}
		if f[i].wild == '+' {
			continue
		}
		if !f[i].equals(id, level) {
			return false
		}
	}
	return !more
}

// equals compares a level with the text that the identity gives the pieces.
func (l *aclLevel) equals(id *Identity, level []byte) bool {
	for _, p := range l.pieces {
		text := p.text
		switch p.name {
		case 'c':
			text = id.ClientID
		case 'u':
			text = id.Name
		}
		if p.name != 0 && (text == "" || strings.ContainsAny(text, "/+#")) {
			return false
		}
		if len(level) < len(text) || string(level[:len(text)]) != text {
			return false
		}
		level = level[len(text):]
	}
	return len(level) == 0
}
