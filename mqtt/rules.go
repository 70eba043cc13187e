package mqtt

import (
	"fmt"
	"strings"
)

// What rules beside the users-and-rules file need of this room: filters as the file writes them, whether two filters can match one topic, and where routes lead.

// FileRule is one filter of the users-and-rules file.
type FileRule struct {
	User   string // "" for everyone, AnonymousUser for who has no user name
	Action Action
	Filter string
}

// Rules lists what the file allows, in its order.
func (a *StaticAuth) Rules() []FileRule { return a.listed }

// AnonymousUser is the User of rules that the file has for clients without a user name.
const AnonymousUser = "ANONYMOUS"

// Known says whether the file has a user of that name.
func (a *StaticAuth) Known(user string) bool { return a.users[user] != nil }

// Admin says whether the file has the user as one who may do everything.
func (a *StaticAuth) Admin(user string) bool {
	u := a.users[user]
	return u != nil && u.rules.admin
}

// HasAdmin says whether the file has a user who may do everything.
func (a *StaticAuth) HasAdmin() bool {
	for _, u := range a.users {
		if u.rules.admin {
			return true
		}
	}
	return false
}

// Stranger is the Identity of a user who has proved elsewhere who he is: he has what everyone has.
func (a *StaticAuth) Stranger(c ClientInfo) Identity {
	return Identity{ClientID: c.ClientID, Name: c.UserName, rules: a.everyone}
}

// Admin says whether the client may do everything.
func (id *Identity) Admin() bool { return id.rules != nil && id.rules.admin }

// RuleFilter is a topic filter of a rule, in which %c is the client id and %u the user name, as in AuthFile.
type RuleFilter struct {
	text   string
	levels aclFilter
}

// ParseRuleFilter reads one.
func ParseRuleFilter(text string) (RuleFilter, error) {
	levels, err := parseACLFilter(text)
	return RuleFilter{text, levels}, err
}

// Names says whether the filter depends on the client.
func (f *RuleFilter) Names() bool { return strings.Contains(f.text, "%") }

// Covers tells whether f allows all that is wanted: the topic of a publish, or each topic that the filter of a subscription can match.
func (f *RuleFilter) Covers(id *Identity, a Action, topic []byte) bool {
	return len(topic) > 0 && f.levels.covers(id, a, topic)
}

// Meets tells whether f matches some of what is wanted. What f names of the client it takes for any name.
func (f *RuleFilter) Meets(wanted string) bool { return filtersMeet(f.text, wanted) }

// filtersMeet tells whether a topic can match both filters, of which either may be a plain topic. A level may be a route's, +name, or a rule's with a name in it.
func filtersMeet(a, b string) bool {
	for first := true; ; first = false {
		la, restA, moreA := strings.Cut(a, "/")
		lb, restB, moreB := strings.Cut(b, "/")
		wildA, wildB := isWild(la), isWild(lb)
		switch {
		case first && (strings.HasPrefix(la, "$") && wildB || strings.HasPrefix(lb, "$") && wildA):
			return false
		case la == "#" || lb == "#":
			return true
		case !wildA && !wildB && la != lb:
			return false
		case !moreA && !moreB:
			return true
		case !moreA:
			return restB == "#"
		case !moreB:
			return restA == "#"
		}
		a, b = restA, restB
	}
}

func isWild(level string) bool {
	return level == "#" || strings.HasPrefix(level, "+") || strings.Contains(level, "%")
}

// Unshared is the filter of a subscription without $share/GROUP/.
func Unshared(filter string) string {
	if rest, shared := strings.CutPrefix(filter, "$share/"); shared {
		_, filter, _ = strings.Cut(rest, "/")
	}
	return filter
}

// LogTopic is the log topic of the first route that takes an MQTT topic; false if none does. It does not allocate.
func (r *Router) LogTopic(topic []byte) (string, bool) {
	var captures [8][2]int
	s := RouteScratch{captures: captures[:0]}
	for i := range r.routes {
		if r.routes[i].takes(topic, &s) {
			return r.routes[i].topic, true
		}
	}
	return "", false
}

// LogTopics are the log topics to which routes lead what a filter can match, one or more times each.
func (r *Router) LogTopics(filter string) (topics []string) {
	for i := range r.routes {
		if filtersMeet(r.routes[i].match, filter) {
			topics = append(topics, r.routes[i].topic)
		}
	}
	return topics
}

// Recheck ends the connections of clients that subscribe to what they may not subscribe to any more, as rules have changed. When they come back they have those
// subscriptions no more. It takes a while where there are many.
func (s *Server) Recheck() {
	for _, cl := range s.registry.all() {
		cl.recheck()
	}
}

func (cl *client) recheck() {
	cl.lock()
	defer cl.unlock()
	if cl.s == nil || cl.c == nil || len(cl.forbidden()) == 0 {
		return
	}
	cl.srv.cfg.Logger.Info("a client is sent away: a rule took from it what it subscribes to", "client", cl.id, "user", cl.identity.Name)
	cl.srv.stats.unauthorized.Add(1)
	cl.fail(errNoLonger) //nolint:errcheck // fail returns its argument
	cl.c.Close(errNoLonger)
}

// forbidden are the filters that the client subscribes to and may not; under mu.
func (cl *client) forbidden() (filters []string) {
	if cl.srv.cfg.Auth == nil || cl.identity == nil {
		return nil
	}
	for i := range cl.subs {
		if f := cl.subs[i].Filter; !cl.srv.cfg.Auth.Allow(*cl.identity, Subscribe, []byte(f)) {
			filters = append(filters, f)
		}
	}
	return filters
}

// fileRules lists the rules of one part of the file.
func fileRules(user string, r *AuthRules) (rules []FileRule) {
	if r == nil {
		return nil
	}
	for _, f := range r.Publish {
		rules = append(rules, FileRule{user, Publish, f})
	}
	for _, f := range r.Subscribe {
		rules = append(rules, FileRule{user, Subscribe, f})
	}
	return rules
}

// errAdminRules: who may do everything needs no rules.
func errAdminRules(where string) error {
	return fmt.Errorf("%s: an admin may do everything: leave publish and subscribe out", where)
}
