package tokenvault

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "tokenvault.example/client/go/tokenvault/v1"
)

// What a call can fail with, by what to do about it: for errors.Is.
var (
	// ErrConsentRequired: challenge the consumer with StartDelegation.
	// GRANT_NOT_FOUND, CONSENT_REQUIRED, SESSION_ENDED.
	ErrConsentRequired = errors.New("consent required")
	// ErrConfirmationRequired: ask the consumer for the code they were shown, and
	// give it to ConfirmDelegation with the DelegationID of Error.Challenge.
	ErrConfirmationRequired = errors.New("confirmation required")
	// ErrConfirmationCodeWrong: see Error.TriesLeft.
	ErrConfirmationCodeWrong = errors.New("confirmation code wrong")
	// ErrDelegationFailed: nothing was stored; start a new delegation.
	ErrDelegationFailed = errors.New("delegation failed")
	// ErrDelegationExpired: the consumer did not come back in time. Also ErrDelegationFailed.
	ErrDelegationExpired = fmt.Errorf("%w: expired", ErrDelegationFailed)
	// ErrUnavailable: try again, after RetryDelay where that is given.
	ErrUnavailable = errors.New("unavailable")
	// ErrUnreachable: no sidecar, or TLS refused by either side. Also ErrUnavailable.
	ErrUnreachable = fmt.Errorf("%w: sidecar unreachable", ErrUnavailable)
	// ErrAccessDenied: the configuration does not let this caller.
	ErrAccessDenied = errors.New("access denied")
	// ErrInvalidRequest: see FieldViolations.
	ErrInvalidRequest = errors.New("invalid request")
	// ErrScopeNotGranted: more scopes were asked for than were granted.
	ErrScopeNotGranted = errors.New("scope not granted")
	// ErrAuthorizationServerMisconfigured: the operator's problem, costs no grant.
	ErrAuthorizationServerMisconfigured = errors.New("authorization server misconfigured")
	// ErrInternal: a defect of the sidecar; its log has the details.
	ErrInternal = errors.New("internal error of the sidecar")
)

const domain = "tokenvault.v1"

var families = map[string]error{
	"GRANT_NOT_FOUND":         ErrConsentRequired,
	"CONSENT_REQUIRED":        ErrConsentRequired,
	"SESSION_ENDED":           ErrConsentRequired,
	"STATE_NOT_FOUND":         ErrDelegationFailed,
	"AUTHORIZATION_DENIED":    ErrDelegationFailed,
	"CODE_REJECTED":           ErrDelegationFailed,
	"INVALID_ID_TOKEN":        ErrDelegationFailed,
	"ISSUER_MISMATCH":         ErrDelegationFailed,
	"SUBJECT_MISMATCH":        ErrDelegationFailed,
	"AS_UNAVAILABLE":          ErrUnavailable,
	"STORE_UNAVAILABLE":       ErrUnavailable,
	"RATE_LIMITED":            ErrUnavailable,
	"UNKNOWN_CALLER":          ErrAccessDenied,
	"POLICY_DENIED":           ErrAccessDenied,
	"BEARER_INVALID":          ErrAccessDenied,
	"INVALID_REQUEST":         ErrInvalidRequest,
	"SCOPE_NOT_GRANTED":       ErrScopeNotGranted,
	"AS_MISCONFIGURED":        ErrAuthorizationServerMisconfigured,
	"INTERNAL":                ErrInternal,
	"CONFIRMATION_REQUIRED":   ErrConfirmationRequired,
	"CONFIRMATION_CODE_WRONG": ErrConfirmationCodeWrong,
}

// For a reason this client does not know, or none.
var familiesByCode = map[codes.Code]error{
	codes.Unavailable:       ErrUnavailable,
	codes.ResourceExhausted: ErrUnavailable,
	codes.PermissionDenied:  ErrAccessDenied,
	codes.Unauthenticated:   ErrAccessDenied,
	codes.InvalidArgument:   ErrInvalidRequest,
	codes.Internal:          ErrInternal,
	codes.Unknown:           ErrInternal,
	codes.DeadlineExceeded:  context.DeadlineExceeded,
	codes.Canceled:          context.Canceled,
}

// FieldViolation is a field that is missing or wrong, by its name in the proto.
type FieldViolation struct{ Field, Description string }

// Error is why a call failed. It is context.DeadlineExceeded or
// context.Canceled too, for errors.Is, where that is what happened.
type Error struct {
	// Reason is the contract's ErrorReason without its prefix, as in
	// "GRANT_NOT_FOUND"; empty where the sidecar gave none.
	Reason string
	Code   codes.Code
	// Message is for the developer or operator; it holds no token, code or state.
	Message string
	// Metadata are the particulars that come with the reason.
	Metadata map[string]string
	// RetryDelay is zero where the sidecar did not say that waiting helps.
	RetryDelay time.Duration
	// FieldViolations name the fields at fault.
	FieldViolations []FieldViolation
	// Challenge is the link to show, where GetToken was asked for one; without a
	// link where it is ErrConfirmationRequired; else nil.
	Challenge *Challenge

	family error // nil: by Reason and Code
}

func (e *Error) Error() string {
	name := e.Reason
	if name == "" {
		name = e.Code.String()
	}
	return "tokenvault: " + name + ": " + e.Message
}

// TriesLeft is how many other codes may be tried after ErrConfirmationCodeWrong;
// with none the delegation is void.
func (e *Error) TriesLeft() int {
	left, err := strconv.Atoi(e.Metadata["tries_left"])
	if err != nil {
		return 0
	}
	return left
}

// Unwrap gives the family, or the end of a context that it is.
func (e *Error) Unwrap() error {
	if e.family != nil {
		return e.family
	}
	if family, known := families[e.Reason]; known {
		return family
	}
	if e.Reason == "" && e.Code == codes.Unavailable {
		return ErrUnreachable
	}
	return familiesByCode[e.Code]
}

// GRPCStatus lets google.golang.org/grpc/status read the code.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

func errorFrom(err error, address string) error {
	if err == nil {
		return nil
	}
	told := status.Convert(err)
	ours := &Error{Code: told.Code(), Message: told.Message()}
	for _, detail := range told.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == domain {
				ours.Reason, ours.Metadata = d.GetReason(), d.GetMetadata()
			}
		case *errdetails.RetryInfo:
			ours.RetryDelay = d.GetRetryDelay().AsDuration()
		case *pb.ConsentChallenge:
			ours.Challenge = &Challenge{d.GetDelegationId(), d.GetAuthorizationUrl(), instant(d.GetExpireTime())}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				ours.FieldViolations = append(ours.FieldViolations, FieldViolation{v.GetField(), v.GetDescription()})
			}
		}
	}
	if ours.Reason == "" {
		switch ours.Code {
		case codes.Unavailable:
			ours.Message = fmt.Sprintf("no connection to the sidecar at %s: %s", address, ours.Message)
		case codes.DeadlineExceeded:
			ours.Message = fmt.Sprintf("no answer in time from the sidecar at %s", address)
		}
	}
	return ours
}
