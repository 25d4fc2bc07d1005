#ifndef COMMON_FAULT_H
#define COMMON_FAULT_H

/*
 * Named fault points: places where a test makes the program fail.
 *
 * VN_FAULT=name[:nth][:action][,...] arms points; the nth passage (1 = the
 * first) acts. Actions: "fail" (default; fault_hit() returns 1 and the caller
 * raises its error), "kill" (SIGKILL to this process), "stop" (SIGSTOP).
 * Every name in use is listed in docs/FAULTS.md. Costs one load when unarmed.
 * (Idea: CRIU's CRIU_FAULT.)
 */

/* 1 when the point `name` shall fail now, else 0. Thread-safe. */
int fault_hit(const char *name);

/* Arm points from a string as in VN_FAULT; NULL disarms all. For tests. */
void fault_set(const char *spec);

#endif
