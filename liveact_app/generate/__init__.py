"""A picture and a recording become a video: `command` and `job` say what is asked, `render` has the loop."""
