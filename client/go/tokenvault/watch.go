package tokenvault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "tokenvault.example/client/go/tokenvault/v1"
)

const (
	resumeAfter  = 500 * time.Millisecond
	watchTimeout = 24 * time.Hour // the consumer's time: the sidecar ends it when the link does
)

// WatchDelegation waits for what becomes of a delegation, whoever completes it:
// as long as the link works, or as ctx does. ErrDelegationFailed where it came
// to nothing: Reason is "AUTHORIZATION_DENIED" where the consumer declined,
// and it is ErrDelegationExpired where they did not come back in time.
// ErrConfirmationRequired as soon as they have logged in and were shown a code.
// A connection that breaks meanwhile is made anew.
func (c *Client) WatchDelegation(ctx context.Context, delegationID string) (*Delegated, error) {
	ctx, cancel := within(ctx, watchTimeout)
	defer cancel()
	for {
		done, err := c.watch(ctx, &pb.WatchDelegationRequest{DelegationId: delegationID})
		var ours *Error
		if !errors.Is(err, ErrUnavailable) || !errors.As(err, &ours) {
			return done, err
		}
		pause := ours.RetryDelay
		if pause == 0 {
			pause = resumeAfter
		}
		if end, _ := ctx.Deadline(); time.Until(end) <= pause {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, errorFrom(status.FromContextError(ctx.Err()).Err(), c.config.Address)
		}
	}
}

// watch reads one stream to its end; the last event says what came of it.
func (c *Client) watch(ctx context.Context, request *pb.WatchDelegationRequest) (*Delegated, error) {
	connection, err := c.connections.use()
	if err != nil {
		return nil, err
	}
	defer connection.calls.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := connection.stub.WatchDelegation(ctx, request)
	if err != nil {
		return nil, errorFrom(err, c.config.Address)
	}
	var last *pb.WatchDelegationResponse
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return outcome(request, last)
		}
		if event.GetStatus() == pb.DelegationStatus_DELEGATION_STATUS_AWAITING_CONFIRMATION {
			return outcome(request, event) // somebody has to act, though the stream goes on
		}
		if err != nil {
			return nil, errorFrom(err, c.config.Address)
		}
		last = event
	}
}

func outcome(request *pb.WatchDelegationRequest, last *pb.WatchDelegationResponse) (*Delegated, error) {
	switch last.GetStatus() {
	case pb.DelegationStatus_DELEGATION_STATUS_AWAITING_CONFIRMATION:
		return nil, &Error{
			Code: codes.Unknown, Reason: "CONFIRMATION_REQUIRED",
			Message:   "the consumer has logged in: ask for the confirmation code they were shown",
			Challenge: &Challenge{DelegationID: request.GetDelegationId(), ExpireTime: instant(last.GetExpireTime())},
		}
	case pb.DelegationStatus_DELEGATION_STATUS_COMPLETED:
		return delegated(last.GetDelegated()), nil
	case pb.DelegationStatus_DELEGATION_STATUS_EXPIRED:
		return nil, &Error{
			Code: codes.Unknown, Message: "the consumer did not come back in time: start a new delegation",
			family: ErrDelegationExpired,
		}
	case pb.DelegationStatus_DELEGATION_STATUS_DENIED, pb.DelegationStatus_DELEGATION_STATUS_FAILED:
		reason := strings.TrimPrefix(last.GetReason().String(), "ERROR_REASON_")
		return nil, &Error{
			Code: codes.Unknown, Reason: reason, family: ErrDelegationFailed,
			Message: fmt.Sprintf("the delegation failed (%s): nothing was stored, start a new one", reason),
		}
	}
	return nil, &Error{
		Code: codes.Unavailable, Message: "the sidecar stopped telling what becomes of the delegation: watch it again",
		family: ErrUnavailable,
	}
}
