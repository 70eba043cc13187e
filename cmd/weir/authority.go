package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/mqtt"
)

// authority is who clients are and what devices may do: the users-and-rules file of this node, and the rules and credentials that all nodes share. It
// is mqtt.Authorizer for devices, kafka.Authenticator for Kafka clients, and kafka.Given for what requests only show.
//
// A user of the file has the file's password and no other. A name that nobody has a password for is believed where there is no file, as it
// always was, but to rules such a client is User:ANONYMOUS.
type authority struct {
	file      *mqtt.StaticAuth // nil: none
	path      string
	image     func() *meta.Image
	router    func() *mqtt.Router
	passwords *mqtt.Passwords
	filters   atomic.Pointer[filterRules] // of the newest rules that were asked for
}

func newAuthority(file *mqtt.StaticAuth, path string, image func() *meta.Image, router func() *mqtt.Router) *authority {
	return &authority{file: file, path: path, image: image, router: router, passwords: mqtt.NewPasswords()}
}

// Authenticate implements mqtt.Authorizer.
func (a *authority) Authenticate(c mqtt.ClientInfo) (id mqtt.Identity, err error) {
	proved := true
	switch creds := a.image().CredentialsOf(c.UserName); {
	case a.file != nil && (a.file.Known(c.UserName) || len(creds) == 0):
		id, err = a.file.Authenticate(c)
		proved = id.Name != ""
	case len(creds) == 0:
		id, err = mqtt.AllowAll{}.Authenticate(c)
		proved = false
	case !c.HasPassword || !a.matches(creds, c.Password):
		a.passwords.Waste(c.Password) // what it costs with a name that nobody has
		err = mqtt.ErrBadCredentials
	case a.file != nil:
		id = a.file.Stranger(c)
	default:
		id = mqtt.Identity{ClientID: c.ClientID, Name: c.UserName}
	}
	if err != nil {
		return mqtt.Identity{}, err
	}
	id.Principal, id.Host = access.Anonymous, hostOf(c.RemoteAddr)
	if proved {
		id.Principal = access.Principal(id.Name)
		id.Name = id.Principal[len(id.Principal)-len(id.Name):] // one copy for both
	}
	return id, nil
}

// Adopt implements mqtt.Adopter. Whoever another node has let in without proof is nobody here whose name has a password, and the other way round.
func (a *authority) Adopt(id mqtt.Identity) (mqtt.Identity, error) {
	got, proved := mqtt.Identity{ClientID: id.ClientID, Name: id.Name}, true
	switch creds := a.image().CredentialsOf(id.Name); {
	case a.file != nil && (a.file.Known(id.Name) || len(creds) == 0):
		var err error
		if got, err = a.file.Adopt(id); err != nil {
			return mqtt.Identity{}, err
		}
		proved = id.Name != ""
	case len(creds) == 0:
		proved = false
	case a.file != nil:
		got = a.file.Stranger(mqtt.ClientInfo{ClientID: id.ClientID, UserName: id.Name})
	}
	want := access.Anonymous
	if proved {
		want = access.Principal(id.Name)
	}
	if id.Principal != want {
		return mqtt.Identity{}, mqtt.ErrNotAuthorized
	}
	got.Principal, got.Host = id.Principal, id.Host
	return got, nil
}

// matches holds a password against one of a user's credentials: all are of the same password, if they were set together.
func (a *authority) matches(creds []access.Credential, password []byte) bool {
	for i := range creds {
		c := &creds[i]
		if a.passwords.Check(c.User+" "+base64.StdEncoding.EncodeToString(c.StoredKey), password, c.Matches) {
			return true
		}
	}
	return false
}

func hostOf(addr string) string {
	if at, err := netip.ParseAddrPort(addr); err == nil {
		return at.Addr().Unmap().WithZone("").String()
	}
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// Allow implements mqtt.Authorizer: what a rule denies is refused; what the file allows, or a rule, is granted; of what is left, where there is no file, what no rule is about.
//
// A rule on a log topic is about what routes bring there, and about the subscriptions that can match it; one on mqtt:FILTER is about the MQTT topics that the filter matches.
func (a *authority) Allow(id mqtt.Identity, action mqtt.Action, topic []byte) bool {
	rules := a.image().Rules()
	if len(rules.Rules()) == 0 {
		return a.file == nil || a.file.Allow(id, action, topic)
	}
	if id.Admin() {
		return true
	}
	onTopic := a.onLogTopics(rules, &id, action, topic)
	onFilter := a.filterRules().decide(&id, action, topic)
	switch {
	case onTopic == access.Denied || onFilter == access.Denied:
		return false
	case onTopic == access.Granted || onFilter == access.Granted || a.file != nil && a.file.Allow(id, action, topic):
		return true
	}
	return a.file == nil && onTopic == access.Silent && onFilter == access.Silent
}

// onLogTopics is what the rules say of the log topic of a publish, or of all to which a subscription can lead.
func (a *authority) onLogTopics(rules *access.Set, id *mqtt.Identity, action mqtt.Action, topic []byte) access.Decision {
	if action == mqtt.Publish {
		name, ok := a.router().LogTopic(topic)
		if !ok {
			return access.Silent // the client hears that there is no route
		}
		return rules.Decide(id.Principal, id.Host, access.Write, access.Topic, name)
	}
	read := func(name string) access.Decision {
		return rules.Decide(id.Principal, id.Host, access.Read, access.Topic, name)
	}
	filter := mqtt.Unshared(string(topic))
	var all worst
	for _, name := range a.router().LogTopics(filter) {
		all.take(read(name))
	}
	// Records of Kafka's producers have the MQTT topic <log topic>/<key>.
	switch first, _, _ := strings.Cut(filter, "/"); {
	case first == "+" || first == "#":
		if d := rules.DecideAll(id.Principal, id.Host, access.Read, access.Topic); d != access.Silent {
			all.take(d)
		}
		for _, t := range a.image().Topics() {
			if !t.Internal {
				all.take(read(t.Name))
			}
		}
	default:
		if d := read(first); d != access.Silent || a.image().Topic(first) != nil {
			all.take(d)
		}
	}
	return all.Decision
}

// worst is the decision on all of several things. Of none it is Silent: who subscribes to what leads nowhere, as $SYS, has been granted nothing.
type worst struct {
	access.Decision
	some bool
}

func (w *worst) take(d access.Decision) {
	severity := func(d access.Decision) int {
		switch d {
		case access.Denied:
			return 3
		case access.Refused:
			return 2
		case access.Silent:
			return 1
		}
		return 0
	}
	if !w.some || severity(d) > severity(w.Decision) {
		w.Decision, w.some = d, true
	}
}

// filterPrefix begins the name of a topic resource that is a filter of MQTT topics. No log topic has a colon in its name.
const filterPrefix = "mqtt:"

// filterRules are the rules on MQTT topics of one version of the metadata's rules.
type filterRules struct {
	version uint64
	rules   []filterRule
}

type filterRule struct {
	*access.Rule
	filter mqtt.RuleFilter
}

func (a *authority) filterRules() *filterRules {
	im := a.image()
	if f := a.filters.Load(); f != nil && f.version == im.RulesVersion {
		return f
	}
	f := &filterRules{version: im.RulesVersion}
	rules := im.Rules().Rules()
	for i := range rules {
		text, ok := strings.CutPrefix(rules[i].Name, filterPrefix)
		if !ok || rules[i].Resource != access.Topic {
			continue
		}
		if filter, err := mqtt.ParseRuleFilter(text); err == nil { // CheckRule has seen it
			f.rules = append(f.rules, filterRule{&rules[i], filter})
		}
	}
	a.filters.Store(f)
	return f
}

// decide is access.Set.Decide for MQTT topics. An allowance has to cover all of what is wanted, a denial to meet some of it.
func (f *filterRules) decide(id *mqtt.Identity, action mqtt.Action, topic []byte) access.Decision {
	op, d, wanted := access.Write, access.Silent, ""
	if action == mqtt.Subscribe && len(f.rules) > 0 {
		op, wanted = access.Read, mqtt.Unshared(string(topic))
		topic = []byte(wanted)
	}
	for i := range f.rules {
		r := &f.rules[i]
		covers := r.filter.Covers(id, action, topic)
		if !covers && (action == mqtt.Publish || !r.filter.Meets(wanted)) {
			continue
		}
		d = max(d, access.Refused)
		switch {
		case r.Principal != id.Principal && r.Principal != access.Everyone,
			r.Host != id.Host && r.Host != access.Wildcard,
			r.Operation != op && r.Operation != access.All:
		case r.Permission == access.Deny:
			return access.Denied
		case covers:
			d = access.Granted
		}
	}
	return d
}

// checkRule says why a rule that a request brings would never mean what it says.
func checkRule(r *access.Rule) error {
	text, ok := strings.CutPrefix(r.Name, filterPrefix)
	if !ok || r.Resource != access.Topic {
		return nil
	}
	filter, err := mqtt.ParseRuleFilter(text)
	switch {
	case err != nil:
		return err
	case r.Pattern != access.Literal:
		return fmt.Errorf("topic %q: an MQTT filter has wildcards of its own: make the rule literal, and end the filter in /#", r.Name)
	case r.Operation != access.Read && r.Operation != access.Write && r.Operation != access.All:
		return fmt.Errorf("topic %q: devices publish (Write) and subscribe (Read), and do nothing else with an MQTT topic", r.Name)
	case r.Permission == access.Deny && filter.Names():
		return fmt.Errorf("topic %q: a denial names its topics outright, without %%c and %%u", r.Name)
	}
	return nil
}

// AuthenticatePlain implements kafka.Authenticator.
func (a *authority) AuthenticatePlain(_ context.Context, user, password string) error {
	_, err := a.Authenticate(mqtt.ClientInfo{UserName: user, HasPassword: true, Password: []byte(password)})
	return err
}

// Credential implements kafka.Authenticator.
func (a *authority) Credential(user string, m access.Mechanism) (access.Credential, bool) {
	if a.User(user) {
		return access.Credential{}, false
	}
	return a.image().Credential(user, m)
}

// Admin implements kafka.Authenticator.
func (a *authority) Admin(user string) bool { return a.file != nil && a.file.Admin(user) }

// User implements kafka.Given.
func (a *authority) User(name string) bool { return a.file != nil && a.file.Known(name) }

// Where implements kafka.Given.
func (a *authority) Where() string {
	return fmt.Sprintf("%s (auth.file) of this node: change it there, on every node, and restart the nodes", a.path)
}

// Rules implements kafka.Given.
func (a *authority) Rules() (rules []access.Rule) {
	if a.file == nil {
		return nil
	}
	for _, r := range a.file.Rules() {
		rule := access.Rule{
			Resource: access.Topic, Pattern: access.Literal, Name: filterPrefix + r.Filter, Principal: access.Everyone,
			Host: access.Wildcard, Operation: access.Write, Permission: access.Allow,
		}
		if r.User != "" {
			rule.Principal = access.Principal(r.User)
		}
		if r.Action == mqtt.Subscribe {
			rule.Operation = access.Read
		}
		rules = append(rules, rule)
	}
	return rules
}

// watchRules has connected devices looked at again when a change of the metadata may take from them what they subscribe to, until ctx ends.
func (n *node) watchRules(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	var rules uint64
	var topics []*meta.Topic
	stop := n.broker.WatchTopics(func(im *meta.Image) {
		if im.RulesVersion == rules && (len(im.Rules().Rules()) == 0 || !newTopics(topics, im.Topics())) {
			return
		}
		rules, topics = im.RulesVersion, im.Topics()
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer stop()
	for {
		select {
		case <-changed:
			n.mqtt.Recheck()
		case <-ctx.Done():
			return nil
		}
	}
}

// newTopics says whether a topic is among now that was not before. Both are in the order of names.
func newTopics(before, now []*meta.Topic) bool {
	for _, t := range now {
		for len(before) > 0 && before[0].Name < t.Name {
			before = before[1:]
		}
		if len(before) == 0 || before[0].Name != t.Name {
			return true
		}
	}
	return false
}

// checkSASL says why Kafka clients could not prove who they are.
func (c *Config) checkSASL(file *mqtt.StaticAuth) error {
	if !c.Kafka.SASL {
		return nil
	}
	if file == nil || !file.HasAdmin() {
		return errors.New("kafka.sasl: nobody could make the first user or rule: give a user in auth.file `admin: true`")
	}
	return nil
}
