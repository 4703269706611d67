// What the engine and the provider share: an operation that pauses its job.

#ifndef PAUSE_H
#define PAUSE_H

// Pauses the current job until a thread of this object's own reports completion, as an accelerator
// does; returns at once outside a job. Announces completion by the callback of the job's wait
// context if it has one, else by a descriptor that it adds to the context.
//
// ACCELERATOR_DELAY_US is how long an operation takes. ACCELERATOR_PAUSES is a file of 8 bytes, in
// which the pauses of all processes are counted.
void pause_until_completion(void);

#endif
