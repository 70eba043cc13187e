package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeClientQuotas (key 48): v0–1
//
// There are no quotas, and the answer is that none is set. kafka-configs.sh asks before it shows a user's credentials. To set one (key 49) is
// not served, since none would be honoured.
//
//	v1  flexible
func (s *Server) describeClientQuotas(_ context.Context, _ *conn, _ kmsg.Request) (kmsg.Response, error) {
	resp := kmsg.NewPtrDescribeClientQuotasResponse()
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{}
	return resp, nil
}
