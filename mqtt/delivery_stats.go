package mqtt

import "github.com/weir-io/weir/mqtt/deliver"

// Delivery returns the figures of the delivery hub; package deliver says what each means.
func (s *Server) Delivery() deliver.Stats { return s.hub.Stats() }
