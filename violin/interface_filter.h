#ifndef VIOLIN_INTERFACE_FILTER_H
#define VIOLIN_INTERFACE_FILTER_H

#include "common/err.h"

/*
 * Drop whatever comes in at interface `index`, behind packet sockets, and
 * whatever is sent through its queues. Replaces a filter that is there.
 * Blocks for milliseconds.
 */
int interface_filter_all(unsigned index, struct vn_err *err) VN_MUST_USE;

#endif
