"""What is done to videos before a discriminator, or a generator that is conditioned on them, sees them.

    stage 1   diffaug, then stretch_time       on what D sees
    stage 2   corrupt                          on the low-res frames that G is given, and D sees beside its output
              ada, over both resolutions       on what D sees, then drop_conditioning on the low-res ones

Each is a frozen dataclass of numbers, with `draw`, which takes them from `Draws`, and `apply`: real and generated
videos are treated alike when their draws are, and a video's frames because they share the numbers.

Every one is linear or affine in the video, and differentiable any number of times: R1 takes the gradient of a
gradient through it. Half precision and autocast are left aside: the arithmetic is in float32, or float64 for float64.
"""
