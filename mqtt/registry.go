package mqtt

import (
	"strings"
	"sync"
)

// registry knows every client identifier that has a session or is about to.
type registry struct {
	mu      sync.Mutex
	clients map[string]*client
	timers  timers
}

// tenure says why a client is registered. Owned by the registry's mu.
type tenure struct {
	claims int32 // goroutines at work on it
	live   bool  // has a session
}

func (r *registry) init() {
	r.clients = map[string]*client{}
	r.timers.wake = make(chan struct{}, 1)
}

// acquire finds or makes the client; it stays registered until release.
func (r *registry) acquire(s *Server, id string) *client {
	r.mu.Lock()
	defer r.mu.Unlock()
	cl := r.clients[id]
	if cl == nil {
		id = strings.Clone(id) // not the whole CONNECT
		cl = &client{srv: s, id: id}
		r.clients[id] = cl
	}
	cl.tenure.claims++
	return cl
}

func (r *registry) release(cl *client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cl.tenure.claims--
	r.dropLocked(cl)
}

// setLive records whether the client has a session.
func (r *registry) setLive(cl *client, live bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cl.tenure.live = live
	r.dropLocked(cl)
}

func (r *registry) dropLocked(cl *client) {
	if cl.tenure == (tenure{}) && r.clients[cl.id] == cl {
		delete(r.clients, cl.id)
	}
}

// find returns the client of that identifier, nil if there is none.
func (r *registry) find(id string) *client {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clients[id]
}

func (r *registry) all() []*client {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*client, 0, len(r.clients))
	for _, cl := range r.clients {
		list = append(list, cl)
	}
	return list
}

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.clients)
}
