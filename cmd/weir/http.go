package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/goccy/go-yaml"
)

// httpServer is the operator's side of a node: metrics, health, a small API and a console page. It serves no data.
type httpServer struct {
	node     *node
	listener *limitedListener // nil when http.listen is empty
	server   *http.Server
}

//go:embed console.html
var consolePage []byte

func newHTTPServer(n *node, listen string) (*httpServer, error) {
	s := &httpServer{node: n}
	if listen == "" {
		return s, nil
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w", err)
	}
	s.listener = &limitedListener{Listener: l, max: n.cfg.HTTP.MaxConnections}
	s.server = &http.Server{
		Handler: refuseBeyond(s.routes()), ConnContext: markRefused, MaxHeaderBytes: httpHeaderBytes,
		ReadHeaderTimeout: httpHeaderTimeout, ReadTimeout: httpTimeout, WriteTimeout: httpTimeout, IdleTimeout: httpTimeout,
	}
	return s, nil
}

func (s *httpServer) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, s.node.status()) })
	mux.HandleFunc("GET /api/v1/cluster", s.clusterPage)
	mux.HandleFunc("GET /debug/cluster", s.clusterPage)
	mux.HandleFunc("GET /api/v1/routes", func(w http.ResponseWriter, _ *http.Request) { s.writeRoutes(w) })
	mux.HandleFunc("POST /api/v1/routes/reload", s.reload)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'")
		_, _ = w.Write(consolePage)
	})
	// A page of another site must not be able to steer a node through its operator's browser.
	return http.NewCrossOriginProtection().Handler(mux)
}

// ready answers 200 while records are taken and read, 503 with the reason while they are not: a full disk and a lapsed lease pass (E4), a failed disk does
// not (A6).
func (s *httpServer) ready(w http.ResponseWriter, r *http.Request) {
	if why := s.node.broker.Unready(); why != "" && s.node.broker.Err() == nil {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	if s.node.broker.Err() == nil && s.node.broker.LogStats().DiskFull {
		http.Error(w, "the disk is full: records are held or refused until there is room", http.StatusServiceUnavailable)
		return
	}
	s.health(w, r)
}

// health answers 200 while the node can go on, 503 with the reason once storage has failed and only a restart helps (A6).
func (s *httpServer) health(w http.ResponseWriter, _ *http.Request) {
	if err := s.node.broker.Err(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// reload reads the configuration file again; a bad file changes nothing and is answered with what is wrong in it.
func (s *httpServer) reload(w http.ResponseWriter, _ *http.Request) {
	if err := s.node.reload(); err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	s.writeRoutes(w)
}

// writeRoutes answers with the rules in force under the names that the configuration file gives them.
func (s *httpServer) writeRoutes(w http.ResponseWriter) {
	text, err := yaml.MarshalWithOptions(s.node.routing.Load().routes, yaml.JSON())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // the client went away: nobody is left to tell
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client went away: nobody is left to tell
}

func (s *httpServer) addr() net.Addr {
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// run serves until ctx ends; requests under way get a moment to finish.
func (s *httpServer) run(ctx context.Context) error {
	if s.server == nil {
		<-ctx.Done()
		return nil
	}
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = s.server.Shutdown(grace)
	})
	defer stop()
	if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
